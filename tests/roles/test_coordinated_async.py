"""Coordinated asynchronous learning: idle trainers are lent to whichever middle aggregator asks."""

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from roles.aggregator import Aggregator
from roles.algorithms.fedbuff import FedBuff
from roles.coordinator import NOTHING, Coordinator, More
from roles.lending.loans import Loans
from roles.lending.watch import Watch
from roles.role import Role
from roles.rounds.average import WeightedSum
from roles.rounds.task import Task as Round
from roles.settings import Quorum, Settings, Stop
from roles.trainer import Task, Trainer
from tests.roles import oracle
from tests.roles.coordination import SETTINGS, SIZES, errors, job, regrouped
from tests.roles.federation import PATIENCE, Job, Killed, coordinated, federate
from tests.roles.lasting import ENDLESS, back, died, federate_until
from tests.roles.specimens import Points, classifier
from transports.base import Channel
from transports.faulty import BREAKS, Chance, FaultyHub
from transports.message import Header, Message

Codes = dict[str, type[Role]]
Option = int | bool | None
QUICK = Quorum(join_timeout=PATIENCE, survivors=True, rejoin_timeout=1.0)


def buffered(folder: Path | None = None, *, settings: Settings = SETTINGS, of: Codes | None = None, **options: Option) -> Job:
    """FedBuff with two updates in a buffer; `of`: classes of single workers."""
    given: dict[str, Any] = {"k": 2, "middle_k": 2, "concurrency": 2, **options}
    return replace(job(folder, settings=settings, code_of=of or {}), strategy=lambda: FedBuff(**given))


@pytest.mark.parametrize(
    ("trainers", "middles", "options"),
    [
        (6, 2, {}),
        (6, 2, {"concurrency": None}),
        (6, 3, {"k": 1}),
        (6, 3, {"k": 3, "middle_k": 1}),
        (4, 2, {"repeat": True}),
        (1, 2, {"repeat": True}),
        (1, 3, {"repeat": True, "k": 3}),
        # Neither middle aggregator can fill its buffer without a trainer that the other one may have.
        (2, 2, {}),
        (2, 2, {"concurrency": None}),
        (3, 3, {"k": 3, "middle_k": 3, "concurrency": None}),
        # Fewer trainers than updates that a buffer takes.
        (1, 2, {"k": 1}),
        (1, 2, {}),
    ],
)
def test_a_job_comes_to_its_end_however_few_trainers_there_are(trainers: int, middles: int, options: dict[str, Option]) -> None:
    records = federate(coordinated(trainers, middles), buffered(None, settings=SETTINGS, of=None, **options))
    assert errors(records) == {}
    assert records["top-0"].rounds == list(range(1, SETTINGS.rounds + 1))
    assert records["top-0"].results[0]["rounds"] == SETTINGS.rounds
    # A buffer takes one update of a client, so it has seen that many; the others may have been too late for the whole job.
    buffer = 1 if options.get("repeat") else int(options.get("middle_k") or 2)
    trained = [index for index in range(trainers) if records[f"trainer-{index}"].rounds]
    assert len(trained) >= min(trainers, buffer)


class Ledger:
    """Writes down who was lent to whom, and who trained for whom."""

    def __init__(self) -> None:
        self.lent: list[tuple[str, str]] = []
        self.trained: list[tuple[str, str]] = []

    def coordinator(self) -> type[Role]:
        lent = self.lent

        class Noting(Coordinator):
            def tell_middles(self, channel: Channel, round: int, ends: Mapping[str, Sequence[str]], more: More = NOTHING) -> None:
                lent.extend((trainer, middle) for middle, trainers in ends.items() for trainer in trainers)
                super().tell_middles(channel, round, ends, more)

        return Noting

    def trainer(self) -> type[Role]:
        trained = self.trained

        class Noting(Trainer):
            def train(self, task: Task) -> Message:
                trained.append((self.context.name, task.parent))
                return super().train(task)

        return Noting


def test_a_trainer_works_for_whom_it_is_lent_to_and_for_several_in_turn() -> None:
    ledger = Ledger()
    # A round takes four updates, two of different trainers in each buffer: one of the three works for both aggregators.
    layout = coordinated(3, 2, trainer=ledger.trainer())
    records = federate(layout, buffered(of={"coordinator-0": ledger.coordinator()}, settings=replace(SETTINGS, rounds=8)))
    assert errors(records) == {}
    lent, trained = defaultdict(list), defaultdict(list)
    for trainer, middle in ledger.lent:
        lent[trainer].append(middle)
    for trainer, middle in ledger.trained:
        trained[trainer].append(middle)
    assert set(lent) == {f"trainer-{index}" for index in range(3)}
    for trainer, middles in trained.items():
        # In the order of its loans; one that came too late for its round was given back unused.
        loans = iter(lent[trainer])
        assert all(middle in loans for middle in middles), trainer
    assert any(len(set(middles)) == 2 for middles in trained.values()), "somebody worked for both"


def test_trainers_are_lent_within_their_group_only() -> None:
    ledger = Ledger()
    labels = {"middle-0": "eu", "middle-1": "na", "trainer-0": "eu", "trainer-1": "na", "trainer-2": "eu", "trainer-3": "na"}
    layout = regrouped(coordinated(4, 2, trainer=ledger.trainer()), "param", labels)
    assert errors(federate(layout, buffered())) == {}
    assert set(ledger.trained) == {(f"trainer-{index}", f"middle-{index % 2}") for index in range(4)}


def test_full_buffers_of_everybody_equal_averaging_with_uniform_weights(tmp_path: Path) -> None:
    # Two groups, each as large as its buffer: every round holds one update of everybody, made from the model of the round.
    labels = {"middle-0": "eu", "middle-1": "na", **{f"trainer-{index}": "en"[index % 2] + "ua"[index % 2] for index in range(6)}}
    layout = regrouped(coordinated(6, 2), "param", labels)
    records = federate(layout, buffered(tmp_path, k=2, middle_k=3, concurrency=None))
    assert errors(records) == {}
    data = {f"trainer-{index}": Points(index, size) for index, size in enumerate(SIZES)}
    expected = oracle.fedavg(classifier(), data, seed=9, rounds=SETTINGS.rounds, epochs=1, uniform=True)[-1]
    assert oracle.largest_difference(torch.load(tmp_path / "last.pt", weights_only=True), expected) < 1e-6


def test_the_coordinator_enters_the_rounds_that_aggregators_ask_in() -> None:
    records = federate(coordinated(6, 2), buffered())
    assert records["coordinator-0"].rounds == list(range(1, SETTINGS.rounds + 1))


def test_a_job_that_reaches_its_target_ends_everybody() -> None:
    settings = replace(SETTINGS, rounds=50, stop=Stop(metric="loss", mode="min", target=math.inf))
    made = replace(buffered(settings=settings), build_test_data=lambda: Points(0, SIZES[0]))
    records = federate(coordinated(4, 2), made)
    assert errors(records) == {}
    assert records["top-0"].results[0]["rounds"] < 50


def dying(name: str, *, at: int) -> tuple[type[Role], list[str]]:
    """A class that is killed when it has done its thing `at` times, and what it said."""
    deaths: list[str] = []
    done: Counter[str] = Counter()

    def die(what: str) -> None:
        done[what] += 1
        if done[what] == at:
            deaths.append(what)
            raise Killed("out of luck")

    class DyingTrainer(Trainer):
        def train(self, task: Task) -> Message:
            die("train")
            return super().train(task)

    class DyingAggregator(Aggregator):
        def upload(self, channel: Channel, task: Round, total: WeightedSum) -> None:
            die("upload")
            super().upload(channel, task, total)

    class DyingBorrower(Aggregator):
        def _watch(self) -> Watch | None:
            class DyingLoans(Loans):
                def assigned(self, header: Header) -> None:
                    super().assigned(header)
                    die("borrow")

            loans = super()._watch()
            assert isinstance(loans, Loans)
            return DyingLoans(loans.channel, PATIENCE)

    class DyingCoordinator(Coordinator):
        def tell_middles(self, channel: Channel, round: int, ends: Mapping[str, Sequence[str]], more: More = NOTHING) -> None:
            super().tell_middles(channel, round, ends, more)
            die("lend")

    kinds: dict[str, type[Role]] = {
        "trainer-1": DyingTrainer,
        "middle-0": DyingAggregator,
        "middle-1": DyingBorrower,
        "coordinator-0": DyingCoordinator,
    }
    return kinds[name], deaths


EVERYBODY = ["trainer-1", "middle-0", "middle-1", "coordinator-0"]


@pytest.mark.parametrize("name", EVERYBODY)
def test_a_worker_that_dies_ends_everyone_with_its_name(name: str) -> None:
    code, deaths = dying(name, at=2)
    found = errors(federate(coordinated(4, 2), buffered(of={name: code}, settings=replace(SETTINGS, rounds=ENDLESS))))
    assert len(deaths) == 1
    assert isinstance(found.pop(name), Killed)
    for other, error in found.items():
        assert f"{name} failed: out of luck" in str(error), other
    assert found


@pytest.mark.parametrize("at", [1, 2, 3])
@pytest.mark.parametrize("name", ["trainer-1", "middle-0", "middle-1"])
def test_the_others_go_on_without_a_lost_worker_where_that_is_allowed(name: str, at: int) -> None:
    code, deaths = dying(name, at=at)
    settings = replace(SETTINGS, quorum=QUICK)
    records = federate_until(coordinated(4, 2), buffered(settings=settings, of={name: code}), died(name))
    assert len(deaths) == 1
    assert set(errors(records)) == {name}
    assert records["top-0"].rounds == list(range(1, records["top-0"].results[0]["rounds"] + 1))


def test_the_trainers_of_a_lost_aggregator_work_for_the_other_one() -> None:
    code, _ = dying("middle-1", at=1)
    ledger = Ledger()
    settings = replace(SETTINGS, rounds=6, quorum=QUICK)
    layout = coordinated(4, 2, trainer=ledger.trainer())
    of = {"middle-1": code, "coordinator-0": ledger.coordinator()}
    records = federate(layout, buffered(settings=settings, of=of, concurrency=None))
    assert set(errors(records)) == {"middle-1"}
    last = max(index for index, (_, middle) in enumerate(ledger.lent) if middle == "middle-1")
    bereft = ledger.lent[last][0]
    assert (bereft, "middle-0") in ledger.lent[last + 1 :]


def test_the_coordinator_cannot_be_done_without() -> None:
    code, _ = dying("coordinator-0", at=3)
    settings = replace(SETTINGS, rounds=6, quorum=QUICK)
    found = errors(federate(coordinated(4, 2), buffered(settings=settings, of={"coordinator-0": code})))
    assert "coordinator-0 failed: out of luck" in str(found["top-0"])


@pytest.mark.parametrize("at", [1, 2, 3])
@pytest.mark.parametrize("name", EVERYBODY)
def test_a_worker_that_is_started_anew_takes_its_place_again(name: str, at: int, tmp_path: Path) -> None:
    code, deaths = dying(name, at=at)
    records = federate_until(coordinated(4, 2), replace(buffered(of={name: code}), states=tmp_path), back(name), restart=True)
    assert len(deaths) == 1
    assert errors(records) == {}
    assert records["top-0"].rounds == list(range(1, records["top-0"].results[0]["rounds"] + 1))
    assert len(records[name].rounds) > records[name].done


def test_a_root_that_is_started_anew_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    class DyingRoot(Aggregator):
        def distribute(self, channel: Channel, task: Round) -> None:
            if task.round == 3 and not self.context.resume:
                raise Killed("out of luck")
            super().distribute(channel, task)

    made = buffered(tmp_path / "root", settings=replace(SETTINGS, rounds=6), of={"top-0": DyingRoot})
    records = federate(coordinated(4, 2), replace(made, states=tmp_path / "states"), restart=True)
    assert errors(records) == {}
    assert records["top-0"].results[0]["rounds"] == 6


@pytest.mark.parametrize("seed", range(12))
def test_connections_that_break_and_come_back_stop_nobody(seed: int) -> None:
    quorum = Quorum(join_timeout=PATIENCE, rejoin_timeout=PATIENCE)
    hub = FaultyHub(Chance(seed, rate=0.2, kinds=(*BREAKS, "delay", "duplicate", "corrupt_offer"), most=12))
    made = buffered(settings=replace(SETTINGS, quorum=quorum), middle_k=1 + seed % 3, repeat=seed % 2 == 0)
    records = federate(coordinated(4, 2), made, hub=hub)
    assert errors(records) == {}
    assert hub.happened
    assert records["top-0"].results[0]["rounds"] == SETTINGS.rounds


def test_what_a_trainer_remembers_survives_a_model_of_an_aggregator_that_is_far_behind(tmp_path: Path) -> None:
    behind: list[int] = []

    class Late(Trainer):
        def upload(self, channel: Channel, task: Task, update: Message) -> None:
            if task.round == 9 and not behind:
                # As if it were lent to another aggregator, too, which has waited since the second round.
                behind.append(2)
                update = update.packed()
                self.keep.save(self._update(replace(task, round=2)).round)
            super().upload(channel, task, update)

    settings = replace(SETTINGS, rounds=12, optimizer="keep")
    made = replace(buffered(settings=settings, of={"trainer-0": Late}), build_module=classifier(lr=0.1, momentum=0.9))
    records = federate(coordinated(2, 1), replace(made, states=tmp_path))
    assert errors(records) == {}
    assert behind == [2]
    assert records["top-0"].results[0]["rounds"] == 12
