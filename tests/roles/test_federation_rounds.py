import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

from roles.aggregator import Aggregator
from roles.settings import Quorum, Settings, Share
from roles.state import model_sha256
from roles.strategy import Gathered, State, Strategy
from roles.trainer import Task, Trainer
from tests.roles import oracle
from tests.roles.federation import PATIENCE, Job, Layout, Record, coordinated, federate, three_tier, two_tier
from tests.roles.specimens import Points, classifier, points
from transports.base import Channel, Delivery
from transports.message import Message

SIZES = (12, 20, 7, 16)
SETTINGS = Settings(seed=3, rounds=3, epochs=2, quorum=Quorum(join_timeout=PATIENCE))


def data_of(layout: Layout) -> dict[str, Points]:
    return {name: Points(index, SIZES[index % len(SIZES)]) for index, name in enumerate(layout.trainers)}


def job_for(layout: Layout, folder: Path | None, settings: Settings = SETTINGS, **more: Any) -> Job:
    data = [lambda own=own: own for own in data_of(layout).values()]
    test = lambda: Points(0, 1)  # noqa: E731
    return Job(build_module=classifier(), data=data, build_test_data=test, settings=settings, folder=folder, **more)


def succeed(layout: Layout, job: Job) -> dict[str, Record]:
    records = federate(layout, job)
    assert {name: record.error for name, record in records.items()} == dict.fromkeys(records)
    return records


def last_model(folder: Path) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = torch.load(folder / "last.pt", weights_only=True)
    return state


LAYOUTS: Mapping[str, Callable[..., Layout]] = {
    "two_tier": lambda **more: two_tier(4, **more),
    "three_tier": lambda **more: three_tier({"eu": 3, "na": 1}, **more),
    "coordinated": lambda **more: coordinated(4, 2, **more),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_the_final_model_equals_plain_pytorch(name: str, tmp_path: Path) -> None:
    layout = LAYOUTS[name]()
    succeed(layout, job_for(layout, tmp_path))
    expected = oracle.fedavg(classifier(), data_of(layout), seed=3, rounds=3, epochs=2)
    assert oracle.largest_difference(last_model(tmp_path), expected[-1]) < 1e-6
    assert oracle.largest_difference(expected[0], expected[-1]) > 0.1


@pytest.mark.parametrize("policy", ["random", "round_robin", "balanced"])
def test_every_policy_of_the_coordinator_gives_the_flat_model(policy: Any, tmp_path: Path) -> None:
    layout = coordinated(3, 2)
    records = succeed(layout, job_for(layout, tmp_path, replace(SETTINGS, coordinate=policy, rounds=4, epochs=1)))
    expected = oracle.fedavg(classifier(), data_of(layout), seed=3, rounds=4, epochs=1)
    assert oracle.largest_difference(last_model(tmp_path), expected[-1]) < 1e-6
    for name in ("coordinator-0", "top-0", *layout.trainers):
        assert records[name].rounds == [1, 2, 3, 4]


def test_a_middle_aggregator_without_trainers_sits_the_round_out(tmp_path: Path) -> None:
    layout = coordinated(1, 2)
    settings = replace(SETTINGS, coordinate="round_robin", rounds=4, epochs=1)
    records = succeed(layout, job_for(layout, tmp_path, settings))
    assert records["middle-0"].rounds == [1, 3]
    assert records["middle-1"].rounds == [2, 4]
    assert records["trainer-0"].rounds == [1, 2, 3, 4]
    expected = oracle.fedavg(classifier(), data_of(layout), seed=3, rounds=4, epochs=1)
    assert oracle.largest_difference(last_model(tmp_path), expected[-1]) < 1e-6


def test_balanced_goes_by_the_samples_that_trainers_report(tmp_path: Path) -> None:
    parents: dict[str, str] = {}

    class Noting(Trainer):
        def train(self, task: Task) -> Message:
            parents[self.context.name] = task.parent
            return super().train(task)

    layout = coordinated(3, 2, trainer=Noting)
    succeed(layout, job_for(layout, tmp_path, replace(SETTINGS, coordinate="balanced", rounds=1)))
    # 20 samples alone against 12 + 7.
    assert parents == {"trainer-0": "middle-1", "trainer-1": "middle-0", "trainer-2": "middle-1"}


def test_hierarchical_equals_flat(tmp_path: Path) -> None:
    models = []
    for name, build in LAYOUTS.items():
        layout = build()
        succeed(layout, job_for(layout, tmp_path / name))
        models.append(last_model(tmp_path / name))
    assert max(oracle.largest_difference(models[0], model) for model in models[1:]) < 1e-6


class Queue:
    """Lets trainers send their updates of a round in a given order."""

    def __init__(self, orders: Mapping[int, list[str]]) -> None:
        self._orders = {round: list(order) for round, order in orders.items()}
        self._changed = threading.Condition()
        self.sent: list[tuple[int, str]] = []

    def await_turn(self, round: int, name: str) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: self._orders[round][0] == name, PATIENCE), f"{name} waits for its turn"

    def left(self, round: int, name: str) -> None:
        with self._changed:
            self._orders[round].remove(name)
            self.sent.append((round, name))
            self._changed.notify_all()


def queueing(queue: Queue) -> type[Trainer]:
    """A trainer that sends in its turn, whenever it was ready."""

    class Queueing(Trainer):
        def upload(self, channel: Channel, task: Task, update: Message) -> None:
            gate = self.context.endpoint.mailbox.gate  # type: ignore[attr-defined]
            with gate.released():
                queue.await_turn(task.round, self.context.name)
            Trainer.upload(self, _Telling(channel, lambda: queue.left(task.round, self.context.name)), task, update)

    return Queueing


class _Telling(Channel):
    """A channel that says when something was sent on it."""

    def __init__(self, inner: Channel, sent: Callable[[], None]) -> None:
        self.spec, self._inner, self._sent = inner.spec, inner, sent

    @property
    def joined(self) -> frozenset[str]:
        return self._inner.joined

    def send(self, message: Message, to: Any) -> Delivery:
        delivery = self._inner.send(message, to)
        self._sent()
        return delivery

    def receive(self, timeout: float | None = None) -> Any:
        return self._inner.receive(timeout)

    def decline(self, reason: str) -> None:
        self._inner.decline(reason)

    def wait_joined(self, ends: Any = None, timeout: float | None = None) -> None:
        self._inner.wait_joined(ends, timeout)


@pytest.mark.parametrize("name", LAYOUTS)
def test_runs_are_bit_identical_whatever_the_order_of_arrival(name: str, tmp_path: Path) -> None:
    hashes = set()
    for attempt, permuted in enumerate([(0, 1, 2, 3), (3, 2, 1, 0), (2, 0, 3, 1)]):
        names = [f"trainer-{index}" for index in permuted]
        orders = {round: names[round:] + names[:round] for round in range(1, 4)}
        queue = Queue(orders)
        layout = LAYOUTS[name](trainer=queueing(queue))
        folder = tmp_path / str(attempt)
        records = succeed(layout, job_for(layout, folder))
        assert queue.sent == [(round, name) for round, order in orders.items() for name in order]
        hashes.add(model_sha256(last_model(folder)))
        assert [record.results[0]["model_sha256"] for record in records.values() if record.results] == [
            model_sha256(last_model(folder))
        ]
    assert len(hashes) == 1


def values_of(records: Mapping[str, Record]) -> dict[str, list[Any]]:
    """What each worker reported, apart from what was measured in seconds; in an order of its own."""
    return {
        name: sorted(
            (round, metric, value)
            for round, values in record.metrics
            for metric, value in values.items()
            if not metric.endswith("seconds")
        )
        for name, record in records.items()
    }


def test_two_runs_are_bit_identical_in_every_reported_value(tmp_path: Path) -> None:
    layout = coordinated(3, 2)
    job = job_for(layout, tmp_path)
    one, other = (values_of(succeed(layout, job)) for _ in range(2))
    assert one == other
    assert len(one["trainer-0"]) == 3 * len(["train_loss", "upload_bytes"])
    assert len(one["top-0"]) == 3 * len(["loss", "accuracy", "updates", "samples", "distribute_bytes"])


def test_evaluating_beside_the_next_round_changes_nothing(tmp_path: Path) -> None:
    class Ordered(Points):
        """Draws nothing from the generators, which the thread that evaluates shares here with the trainers."""

        def train_dataloader(self) -> DataLoader[Any]:
            return DataLoader(points(self.seed, self.samples), batch_size=5)

    layout = two_tier(3)
    found = []
    for overlap in (False, True):
        data = [lambda index=index: Ordered(index, SIZES[index]) for index in range(3)]
        records = succeed(layout, replace(job_for(layout, tmp_path, overlap=overlap), data=data))
        found.append((values_of(records), records["aggregator-0"].results[0]["model_sha256"]))
    assert found[0] == found[1]


def test_uniform_weights_count_every_trainer_the_same(tmp_path: Path) -> None:
    for layout in (two_tier(3), three_tier({"eu": 2, "na": 1})):
        settings = replace(SETTINGS, share=Share(weighted_by="uniform"), rounds=2)
        succeed(layout, job_for(layout, tmp_path, settings))
        expected = oracle.fedavg(classifier(), data_of(layout), seed=3, rounds=2, epochs=2, uniform=True)
        assert oracle.largest_difference(last_model(tmp_path), expected[-1]) < 1e-6


class HalfStep(Strategy):
    """The next global state lies half way between the current one and the mean."""

    def step(self, current: State, gathered: Gathered, round: int) -> State:
        return {name: (value + current[name]) / 2 for name, value in gathered.mean.items()}


def test_only_the_root_takes_the_server_step(tmp_path: Path) -> None:
    models = []
    for name, layout in (("flat", two_tier(3)), ("tree", three_tier({"eu": 2, "na": 1}))):
        succeed(layout, job_for(layout, tmp_path / name, replace(SETTINGS, rounds=2), strategy=HalfStep))
        models.append(last_model(tmp_path / name))
    assert oracle.largest_difference(*models) < 1e-6
    start, full = oracle.fedavg(classifier(), data_of(two_tier(3)), seed=3, rounds=1, epochs=2)
    layout = two_tier(3)
    succeed(layout, job_for(layout, tmp_path, replace(SETTINGS, rounds=1), strategy=HalfStep))
    half = {name: (start[name] + full[name]) / 2 for name in start}
    assert oracle.largest_difference(last_model(tmp_path), half) < 1e-6


def test_a_root_counts_updates_and_samples_of_the_whole_tree(tmp_path: Path) -> None:
    layout = three_tier({"eu": 3, "na": 1})
    records = succeed(layout, job_for(layout, tmp_path, replace(SETTINGS, rounds=2)))
    assert records["top-0"].metrics_of("updates") == {1: 2.0, 2: 2.0}
    assert records["top-0"].metrics_of("samples") == {1: sum(SIZES), 2: sum(SIZES)}
    assert records["top-0"].results[0]["samples"] == sum(SIZES)
    assert records["trainer-0"].epochs == [1, 2, 1, 2]


def test_a_job_that_nobody_joins_ends_with_the_names_of_the_missing() -> None:
    class Waiting(Aggregator):
        """Begins to count the seconds when trainer-0 is there."""

        def join(self) -> None:
            self.channel("distribute").wait_joined(["trainer-0"], PATIENCE)
            super().join()

    layout = two_tier(2)
    absent = replace(layout, workers=tuple(worker for worker in layout.workers if worker.name != "trainer-1"))
    short = replace(SETTINGS, quorum=Quorum(join_timeout=0.05))
    present = Job(build_module=classifier(), data=[lambda: Points(0, 8)], settings=short, code_of={"aggregator-0": Waiting})
    error = federate(_expecting(absent, layout), present)["aggregator-0"].error
    assert "trainer-1" in str(error)
    assert "trainer-0" not in str(error)


def _expecting(present: Layout, planned: Layout) -> Layout:
    """A layout whose workers are `present` and expect those of `planned`."""

    class Expecting(Layout):
        def ends(self, worker: Any, channel: str) -> Any:
            return planned.ends(worker, channel)

    return Expecting(present.code, present.tags, present.workers)
