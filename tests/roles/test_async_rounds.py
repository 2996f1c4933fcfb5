import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import nn

from roles.algorithms.fedasync import FedAsync
from roles.algorithms.fedbuff import FedBuff
from roles.part import Report
from roles.rounds.average import WEIGHTS
from roles.settings import Quorum, Settings
from roles.simulated import Simulated
from roles.trainer import Task, Trainer
from tests.roles import oracle, queue_oracle
from tests.roles.federation import PATIENCE, Job, Layout, Record, federate, three_tier, two_tier
from tests.roles.queue_oracle import Node
from tests.roles.specimens import CLASSES, FEATURES, Points, classifier
from transports.base import Channel
from transports.faulty import Chance, FaultyHub
from transports.inproc import Hub
from transports.message import Message

SEED, ROUNDS = 3, 9
SIZES = (12, 9, 16, 7)
DATA = {f"trainer-{index}": Points(index, size) for index, size in enumerate(SIZES)}
QUORUM = Quorum(join_timeout=PATIENCE, rejoin_timeout=PATIENCE)
SPEEDS = {"trainer-0": 1.0, "trainer-1": 2.3, "trainer-2": 5.0, "trainer-3": 1.1}
CLOCK = Simulated(compute=1.0, network=0.125, jitter=0.2, workers={**SPEEDS, "middle-0": 1.0, "middle-1": 2.0}, seed=SEED)


def smooth() -> nn.Sequential:
    return nn.Sequential(nn.Linear(FEATURES, 8), nn.Tanh(), nn.Linear(8, CLASSES))


def job(folder: Path, **more: Any) -> Job:
    settings = Settings(seed=SEED, rounds=ROUNDS, quorum=QUORUM, simulated=CLOCK)
    data = [lambda own=own: own for own in DATA.values()]
    return replace(Job(build_module=classifier(smooth), data=data, settings=settings, folder=folder), **more)


def succeed(layout: Layout, job: Job, **more: Any) -> Mapping[str, Record]:
    records = federate(layout, job, **more)
    assert {name: record.error for name, record in records.items()} == dict.fromkeys(records)
    return records


def last(folder: Path) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = torch.load(folder / "last.pt", weights_only=True)
    return found


class Noting(FedBuff):
    """Notes what it hears."""

    def __init__(self, log: list[Report], **more: Any) -> None:
        super().__init__(**more)
        self.log = log

    def heard(self, report: Report) -> None:
        self.log.append(report)


def leaves() -> list[queue_oracle.Leaf]:
    return queue_oracle.leaves(classifier(smooth), DATA, SEED, CLOCK.task)


@pytest.mark.parametrize(("k", "concurrency"), [(1, None), (2, None), (3, 3), (2, 1), (4, None), (2, 2)])
def test_two_tiers_by_a_virtual_clock_are_the_event_driven_simulation(k: int, concurrency: int | None, tmp_path: Path) -> None:
    heard: list[Report] = []
    records = succeed(two_tier(4), job(tmp_path, strategy=lambda: Noting(heard, k=k, concurrency=concurrency)))
    root = Node("aggregator-0", leaves(), size=k, concurrency=concurrency)
    history, times = queue_oracle.fedbuff(root, queue_oracle.built(classifier(smooth), SEED), rounds=ROUNDS)
    assert [report.end for report in heard] == [end for _, end, _ in root.log]
    assert [report.round for report in heard] == [round - age for round, _, age in root.log]
    assert [report.seconds for report in heard] == pytest.approx([CLOCK.task(each.end, each.round) for each in heard])
    found = records["aggregator-0"].metrics_of("virtual_seconds")
    assert list(found.values()) == pytest.approx(times)
    assert oracle.largest_difference(last(tmp_path), history[-1]) < 1e-6


@pytest.mark.parametrize(("k", "middle_k"), [(1, 1), (1, 2), (2, 1), (2, 2)])
def test_a_hierarchy_by_a_virtual_clock_is_the_event_driven_simulation(k: int, middle_k: int, tmp_path: Path) -> None:
    logs: dict[str, list[Report]] = {}

    def strategy() -> FedBuff:
        return Noting(logs.setdefault(f"strategy-{len(logs)}", []), k=k, middle_k=middle_k)

    records = succeed(three_tier({"eu": 2, "na": 2}), job(tmp_path, strategy=strategy))
    ends, names = leaves(), ("middle-0", "middle-1")
    middles = [
        Node(name, ends[2 * index : 2 * index + 2], size=middle_k, transfer=partial(CLOCK.transfer, name))
        for index, name in enumerate(names)
    ]
    root = Node("top-0", middles, size=k)
    history, times = queue_oracle.fedbuff(root, queue_oracle.built(classifier(smooth), SEED), rounds=ROUNDS)
    assert list(records["top-0"].metrics_of("virtual_seconds").values()) == pytest.approx(times)
    found = sorted([(each.end, each.round) for each in log] for log in logs.values() if log)
    assert found == sorted([(end, round - age) for round, end, age in middle.log] for middle in middles)
    assert oracle.largest_difference(last(tmp_path), history[-1]) < 1e-6


def test_a_full_synchronous_buffer_is_federated_averaging_with_plain_means(tmp_path: Path) -> None:
    settings = Settings(seed=SEED, rounds=ROUNDS, quorum=QUORUM)
    succeed(two_tier(4), job(tmp_path, strategy=lambda: FedBuff(k=4), settings=settings))
    expected = oracle.fedavg(classifier(smooth), DATA, seed=SEED, rounds=ROUNDS, epochs=1, uniform=True)[-1]
    assert oracle.largest_difference(last(tmp_path), expected) < 1e-6


def test_so_it_is_through_a_middle_aggregator(tmp_path: Path) -> None:
    settings = Settings(seed=SEED, rounds=ROUNDS, quorum=QUORUM)
    strategy = lambda: FedBuff(k=2)  # noqa: E731 - two middles at the root, two trainers at each
    succeed(three_tier({"eu": 2, "na": 2}), job(tmp_path, strategy=strategy, settings=settings))
    expected = oracle.fedavg(classifier(smooth), DATA, seed=SEED, rounds=ROUNDS, epochs=1, uniform=True)[-1]
    assert oracle.largest_difference(last(tmp_path), expected) < 1e-6


LAYOUTS: Mapping[str, Callable[[], Layout]] = {
    "two_tier": lambda: two_tier(4),
    "three_tier": lambda: three_tier({"eu": 2, "na": 2}),
}


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("seed", range(4))
def test_by_a_virtual_clock_no_bit_depends_on_what_really_came_first(name: str, seed: int, tmp_path: Path) -> None:
    hubs = {"calm": Hub(), "slow": FaultyHub(Chance(seed, rate=0.4, kinds=("delay",)))}
    seconds = {}
    for which, hub in hubs.items():
        records = succeed(LAYOUTS[name](), job(tmp_path / which, strategy=lambda: FedBuff(k=2, middle_k=1)), hub=hub)
        root = next(record for record in records.values() if record.results)
        seconds[which] = root.metrics_of("virtual_seconds")
    assert cast("FaultyHub", hubs["slow"]).happened
    assert oracle.same_bits(last(tmp_path / "calm"), last(tmp_path / "slow"))
    assert seconds["calm"] == seconds["slow"]


class Normed(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.Linear(FEATURES, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, CLASSES))


def test_statistics_of_batches_and_their_counters_are_averaged_too(tmp_path: Path) -> None:
    settings = Settings(seed=SEED, rounds=4, quorum=QUORUM)
    data = {name: Points(index, 10) for index, name in enumerate(DATA)}
    factories = [lambda own=own: own for own in data.values()]
    build = classifier(Normed)
    succeed(two_tier(4), job(tmp_path, build_module=build, strategy=lambda: FedBuff(k=4), settings=settings, data=factories))
    expected = oracle.fedavg(build, data, seed=SEED, rounds=4, epochs=1, uniform=True)[-1]
    assert oracle.largest_difference(last(tmp_path), expected) < 1e-6


@pytest.mark.parametrize("clock", [None, CLOCK], ids=["real", "virtual"])
def test_a_buffer_that_is_larger_than_the_number_of_ends_takes_several_updates_of_each(
    clock: Simulated | None, tmp_path: Path
) -> None:
    heard: list[Report] = []
    delivered = {name: threading.Event() for name in ("trainer-0", "trainer-1")}

    class Polite(Trainer):
        """Trains a second time only when the other one has delivered, too: one could fill all buffers alone."""

        def train(self, task: Task) -> Message:
            if delivered[self.context.name].is_set():
                with self.context.endpoint.mailbox.gate.released():  # type: ignore[attr-defined]
                    assert all(event.wait(PATIENCE) for event in delivered.values())
            return super().train(task)

        def upload(self, channel: Channel, task: Task, update: Message) -> None:
            delivered[self.context.name].set()
            super().upload(channel, task, update)

    settings = Settings(seed=SEED, rounds=3, quorum=QUORUM, simulated=clock)
    layout = two_tier(2, trainer=Polite)
    records = succeed(layout, job(tmp_path, strategy=lambda: Noting(heard, k=5, repeat=True), settings=settings))
    assert records["aggregator-0"].metrics_of("updates") == dict.fromkeys((1, 2, 3), 5.0)
    assert len(heard) == 15
    assert {report.end for report in heard} == {"trainer-0", "trainer-1"}


def test_a_second_update_of_the_same_round_is_another_one(tmp_path: Path) -> None:
    sent: list[torch.Tensor] = []

    class Keeping(Trainer):
        def train(self, task: Task) -> Message:
            update = super().train(task)
            sent.append(update.groups[WEIGHTS]["net.0.weight"].clone())
            return update

    settings = Settings(seed=SEED, rounds=1, quorum=QUORUM)
    succeed(two_tier(1, trainer=Keeping), job(tmp_path, strategy=lambda: FedBuff(k=3, repeat=True), settings=settings))
    assert len(sent) == 3
    assert not any(torch.equal(one, other) for one, other in combinations(sent, 2))


def test_fedasync_moves_the_model_at_every_update(tmp_path: Path) -> None:
    heard: list[Report] = []

    class NotingAsync(FedAsync):
        def heard(self, report: Report) -> None:
            heard.append(report)

    records = succeed(two_tier(4), job(tmp_path, strategy=lambda: NotingAsync(rho=0.0)))
    assert records["aggregator-0"].metrics_of("updates") == dict.fromkeys(range(1, ROUNDS + 1), 1.0)
    root = Node("aggregator-0", leaves(), size=1, a=0.0)
    models = {1: queue_oracle.built(classifier(smooth), SEED).state_dict()}
    for round in range(1, ROUNDS + 1):
        sent = root.collect(root.now, models[round], round)
        _, end, age = root.log[-1]
        assert (end, round - age) == (heard[round - 1].end, heard[round - 1].round)
        alpha, made = 0.6 * (1 + age) ** -0.5, models[round - age]
        models[round + 1] = {
            name: ((1 - alpha) * value + alpha * (made[name] + torch.from_numpy(sent.total[name]))).float()
            for name, value in models[round].items()
        }
    assert oracle.largest_difference(last(tmp_path), models[ROUNDS + 1]) < 1e-6
