"""Coordinated learning on three levels: trainers, leaf, middle and top aggregators."""

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
import torch

from roles.aggregator import Aggregator
from roles.coordinator import Coordinator
from roles.role import Role
from roles.rounds.task import Task as Round
from roles.settings import Quorum
from roles.trainer import Task, Trainer
from tests.roles import oracle
from tests.roles.coordination import SETTINGS, SIZES, errors, job, regrouped, three_level
from tests.roles.federation import PATIENCE, Killed, Layout, federate
from tests.roles.specimens import Points, classifier
from transports.base import Channel
from transports.faulty import BREAKS, Chance, FaultyHub
from transports.message import Message

Policy = Literal["round_robin", "random", "balanced"]
ROUNDS = range(1, SETTINGS.rounds + 1)


class Noted:
    """Who worked below whom in which round: (below, above, round)."""

    def __init__(self) -> None:
        self.links: list[tuple[str, str, int]] = []

    def layout(self, trainers: int = 6, leaves: int = 3, middles: int = 2) -> Layout:
        """A layout whose trainers and aggregators write down where their models come from."""
        links = self.links

        class Noting(Trainer):
            def train(self, task: Task) -> Message:
                links.append((self.context.name, task.parent, task.round))
                return super().train(task)

        class NotingAggregator(Aggregator):
            def distribute(self, channel: Channel, task: Round) -> None:
                if task.parent is not None:
                    links.append((self.context.name, task.parent, task.round))
                super().distribute(channel, task)

        layout = three_level(trainers, leaves, middles, trainer=Noting)
        return replace(layout, code={**layout.code, "middle": NotingAggregator, "leaf": NotingAggregator})

    def above(self, round: int) -> dict[str, str]:
        """Worker -> whom it got its model from in `round`."""
        return {below: above for below, above, of in self.links if of == round}


@pytest.mark.parametrize("policy", ["round_robin", "random", "balanced"])
def test_three_coordinated_levels_equal_flat_averaging(
    tmp_path: Path, policy: Literal["round_robin", "random", "balanced"]
) -> None:
    noted = Noted()
    records = federate(noted.layout(), job(tmp_path, settings=replace(SETTINGS, coordinate=policy)))
    assert errors(records) == {}
    data = {f"trainer-{index}": Points(index, size) for index, size in enumerate(SIZES)}
    expected = oracle.fedavg(classifier(), data, seed=9, rounds=SETTINGS.rounds, epochs=1)[-1]
    assert oracle.largest_difference(torch.load(tmp_path / "last.pt", weights_only=True), expected) < 1e-6
    assert records["top-0"].metrics_of("samples") == dict.fromkeys(ROUNDS, float(sum(SIZES)))
    for round in ROUNDS:
        assert {below for below in noted.above(round) if "trainer" in below} == {f"trainer-{index}" for index in range(6)}


def test_round_robin_spreads_trainers_over_leaves_and_leaves_over_middle_aggregators() -> None:
    noted = Noted()
    assert errors(federate(noted.layout(), job(settings=replace(SETTINGS, coordinate="round_robin")))) == {}
    for round in ROUNDS:
        above = noted.above(round)
        trainers = Counter(of for below, of in above.items() if "trainer" in below)
        assert trainers == {"leaf-0": 2, "leaf-1": 2, "leaf-2": 2}
        leaves = {below: of for below, of in above.items() if "leaf" in below}
        assert leaves == {f"leaf-{index}": f"middle-{(index + round - 1) % 2}" for index in range(3)}


def test_balanced_weighs_a_leaf_by_the_samples_of_its_trainers() -> None:
    noted = Noted()
    assert errors(federate(noted.layout(), job(settings=replace(SETTINGS, coordinate="balanced")))) == {}
    above = noted.above(1)
    # The largest first, each to the lightest: 16; 14; 12, 11; 9; 7 -> 16 + 7, 14 + 9, 12 + 11.
    assert {below: of for below, of in above.items() if "trainer" in below} == {
        "trainer-0": "leaf-2",
        "trainer-1": "leaf-1",
        "trainer-2": "leaf-0",
        "trainer-3": "leaf-0",
        "trainer-4": "leaf-2",
        "trainer-5": "leaf-1",
    }
    assert {of for below, of in above.items() if "leaf" in below} == {"middle-0", "middle-1"}


def test_aggregators_without_ends_sit_the_round_out_on_every_level() -> None:
    records = federate(three_level(1, 3, 2), job(settings=replace(SETTINGS, coordinate="round_robin")))
    assert errors(records) == {}
    # One trainer wanders from leaf to leaf; the one leaf that has it is the only one placed, so it wanders too.
    assert [records[f"leaf-{index}"].rounds for index in range(3)] == [[1, 4], [2], [3]]
    assert [records[f"middle-{index}"].rounds for index in range(2)] == [[1, 3], [2, 4]]


def test_a_leaf_without_a_way_up_gets_no_trainers() -> None:
    labels = {"leaf-0": "far"}
    records = federate(regrouped(three_level(6, 3, 2), "hier", labels), job())
    assert errors(records) == {}
    assert records["leaf-0"].rounds == []
    assert records["top-0"].metrics_of("samples") == dict.fromkeys(ROUNDS, float(sum(SIZES)))


def test_a_round_without_any_way_up_fails_and_says_so() -> None:
    labels = dict.fromkeys(("leaf-0", "leaf-1", "leaf-2"), "far")
    error = errors(federate(regrouped(three_level(6, 3, 2), "hier", labels), job()))["top-0"]
    assert str(error) == "round 1: the coordinator found no middle aggregator with trainers"


def test_a_users_coordinator_places_all_levels_by_one_method() -> None:
    class ToTheLast(Coordinator):
        def placement(self, round: int) -> dict[str, str]:
            last = {"trainer": "leaf-2", "leaf": "middle-1"}
            return {one: last[one.partition("-")[0]] for one in super().placement(round)}

    records = federate(three_level(6, 3, 2), job(code_of={"coordinator-0": ToTheLast}))
    assert errors(records) == {}
    assert [records[f"leaf-{index}"].rounds for index in range(3)] == [[], [], list(ROUNDS)]
    assert [records[f"middle-{index}"].rounds for index in range(2)] == [[], list(ROUNDS)]


def dying(name: str, *, once: bool) -> tuple[type[Role], list[int]]:
    """A class that is killed in round 2, and the rounds in which it was."""
    deaths: list[int] = []

    class DyingTrainer(Trainer):
        def train(self, task: Task) -> Message:
            if task.round == 2 and not (once and deaths):
                deaths.append(task.round)
                raise Killed("out of luck")
            return super().train(task)

    class DyingAggregator(Aggregator):
        def distribute(self, channel: Channel, task: Round) -> None:
            super().distribute(channel, task)
            if task.round == 2 and not (once and deaths):
                deaths.append(task.round)
                raise Killed("out of luck")

    class DyingCoordinator(Coordinator):
        def assignment(self, round: int) -> dict[str, str]:
            if round == 2 and not (once and deaths):
                deaths.append(round)
                raise Killed("out of luck")
            return super().assignment(round)

    classes: dict[str, type[Role]] = {"trainer": DyingTrainer, "coordinator": DyingCoordinator}
    return classes.get(name.partition("-")[0], DyingAggregator), deaths


EVERYBODY = ["trainer-2", "leaf-1", "middle-0", "coordinator-0"]


@pytest.mark.parametrize("name", EVERYBODY)
def test_a_worker_that_dies_ends_everyone_with_its_name(name: str) -> None:
    code, _ = dying(name, once=False)
    settings = replace(SETTINGS, coordinate="round_robin")
    found = errors(federate(three_level(6, 3, 2), job(settings=settings, code_of={name: code})))
    assert isinstance(found.pop(name), Killed)
    assert found["top-0"] is not None
    for other, error in found.items():
        assert f"{name} failed: out of luck" in str(error), other


@pytest.mark.parametrize("name", ["trainer-2", "leaf-1", "middle-0"])
def test_the_others_go_on_without_a_lost_worker_where_that_is_allowed(name: str) -> None:
    code, deaths = dying(name, once=False)
    quorum = Quorum(join_timeout=PATIENCE, survivors=True, rejoin_timeout=1.0)
    settings = replace(SETTINGS, coordinate="round_robin", quorum=quorum)
    records = federate(three_level(6, 3, 2), job(settings=settings, code_of={name: code}))
    assert set(errors(records)) == {name}
    assert deaths == [2]
    everybody = float(sum(SIZES))
    without = everybody - (SIZES[2] if name == "trainer-2" else 0)
    # Who worked below a lost aggregator works below another one in the next round.
    assert records["top-0"].metrics_of("samples")[SETTINGS.rounds] == without


@pytest.mark.parametrize("name", EVERYBODY)
def test_a_restarted_worker_takes_its_place_again_and_the_result_is_the_same(name: str, tmp_path: Path) -> None:
    code, deaths = dying(name, once=True)
    settings = replace(SETTINGS, coordinate="round_robin")
    plain = federate(three_level(6, 3, 2), job(tmp_path / "plain", settings=settings))
    records = federate(
        three_level(6, 3, 2), job(tmp_path / "killed", settings=settings, code_of={name: code}, states=tmp_path), restart=True
    )
    assert deaths == [2]
    assert errors(records) == {}
    assert records["top-0"].results[0]["model_sha256"] == plain["top-0"].results[0]["model_sha256"]


@pytest.mark.parametrize("seed", range(6))
def test_connections_that_break_and_come_back_change_no_bit_of_the_model(seed: int) -> None:
    quorum = Quorum(join_timeout=PATIENCE, rejoin_timeout=PATIENCE)
    made = job(settings=replace(SETTINGS, coordinate="round_robin", quorum=quorum))
    calm = federate(three_level(6, 3, 2), made)
    hub = FaultyHub(Chance(seed, rate=0.25, kinds=(*BREAKS, "delay", "duplicate", "corrupt_offer"), most=12))
    rough = federate(three_level(6, 3, 2), made, hub=hub)
    assert errors(rough) == {}
    assert hub.happened
    assert rough["top-0"].results[0]["model_sha256"] == calm["top-0"].results[0]["model_sha256"]
