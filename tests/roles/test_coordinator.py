from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from roles.coordinator import Coordinator
from roles.errors import RoundFailed
from roles.settings import Quorum, Settings
from roles.trainer import Task, Trainer
from tests.roles import oracle
from tests.roles.federation import PATIENCE, Job, Layout, coordinated, federate
from tests.roles.specimens import Points, classifier
from transports.message import Message

SIZES = (12, 9, 16, 7)
SETTINGS = Settings(seed=9, rounds=4, quorum=Quorum(join_timeout=PATIENCE))


def regrouped(layout: Layout, labels: Mapping[str, str]) -> Layout:
    """The same workers with other labels on the channel between trainers and middle aggregators."""
    workers = [
        replace(worker, groups={**worker.groups, "param": labels[worker.name]}) if worker.name in labels else worker
        for worker in layout.workers
    ]
    return replace(layout, workers=tuple(workers))


def job(folder: Path | None = None, **more: object) -> Job:
    data = [lambda index=index: Points(index, SIZES[index]) for index in range(len(SIZES))]
    return replace(Job(build_module=classifier(), data=data, settings=SETTINGS, folder=folder), **more)  # type: ignore[arg-type]


def noting(parents: dict[str, list[str]]) -> type[Trainer]:
    class Noting(Trainer):
        def train(self, task: Task) -> Message:
            parents.setdefault(self.context.name, []).append(task.parent)
            return super().train(task)

    return Noting


def test_a_trainer_is_mapped_to_middle_aggregators_of_its_group_only(tmp_path: Path) -> None:
    parents: dict[str, list[str]] = {}
    labels = {"middle-0": "eu", "middle-1": "na", "middle-2": "eu"}
    labels |= {"trainer-0": "eu", "trainer-1": "na", "trainer-2": "eu", "trainer-3": "na"}
    layout = regrouped(coordinated(4, 3, trainer=noting(parents)), labels)
    records = federate(layout, job(tmp_path, settings=replace(SETTINGS, coordinate="round_robin")))
    assert {name: record.error for name, record in records.items()} == dict.fromkeys(records)
    assert set(parents["trainer-1"]) == set(parents["trainer-3"]) == {"middle-1"}
    assert set(parents["trainer-0"]) == set(parents["trainer-2"]) == {"middle-0", "middle-2"}
    data = {f"trainer-{index}": Points(index, size) for index, size in enumerate(SIZES)}
    expected = oracle.fedavg(classifier(), data, seed=9, rounds=4, epochs=1)[-1]
    assert oracle.largest_difference(torch.load(tmp_path / "last.pt", weights_only=True), expected) < 1e-6


def test_a_trainer_without_a_middle_aggregator_is_left_out_and_ends_with_the_job() -> None:
    labels = {"middle-0": "eu", "trainer-0": "eu", "trainer-1": "asia", "trainer-2": "eu", "trainer-3": "eu"}
    records = federate(regrouped(coordinated(4, 1), labels), job())
    assert {name: record.error for name, record in records.items()} == dict.fromkeys(records)
    assert records["trainer-1"].rounds == []
    assert records["trainer-3"].rounds == [1, 2, 3, 4]
    assert records["top-0"].metrics_of("samples") == dict.fromkeys(range(1, 5), 35.0)


def test_a_round_with_nobody_to_train_fails_and_says_so() -> None:
    labels = {"middle-0": "eu", **{f"trainer-{index}": "asia" for index in range(4)}}
    error = federate(regrouped(coordinated(4, 1), labels), job())["top-0"].error
    assert isinstance(error, RoundFailed)
    assert str(error) == "round 1: the coordinator found no middle aggregator with trainers"


def test_a_users_coordinator_decides_the_mapping_by_one_method() -> None:
    class ToTheLast(Coordinator):
        def assignment(self, round: int) -> dict[str, str]:
            return dict.fromkeys(super().assignment(round), "middle-1")

    parents: dict[str, list[str]] = {}
    records = federate(coordinated(4, 2, trainer=noting(parents)), job(code_of={"coordinator-0": ToTheLast}))
    assert {name: record.error for name, record in records.items()} == dict.fromkeys(records)
    assert set(map(tuple, parents.values())) == {("middle-1",) * 4}
    assert records["middle-0"].rounds == []


def test_the_mapping_follows_the_seed_of_the_job() -> None:
    def parents_with(seed: int) -> dict[str, list[str]]:
        parents: dict[str, list[str]] = {}
        federate(coordinated(4, 2, trainer=noting(parents)), job(settings=replace(SETTINGS, seed=seed)))
        return parents

    assert parents_with(1) == parents_with(1)
    assert parents_with(1) != parents_with(2)


def test_a_message_that_the_coordinator_does_not_know_is_refused_and_the_job_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    class Gossiping(Trainer):
        def train(self, task: Task) -> Message:
            channel = self.channel("coordinate")
            channel.send(Message("gossip", 0), channel.spec.ends)
            return super().train(task)

    records = federate(coordinated(4, 1), job(code_of={"trainer-2": Gossiping}))
    assert {name: record.error for name, record in records.items()} == dict.fromkeys(records)
    assert "trainer-2 sent 'gossip'" in caplog.text


@pytest.mark.parametrize("lost", ["trainer-2", "middle-0"])
def test_a_worker_that_dies_ends_everyone_with_its_name(lost: str) -> None:
    class Dying(Trainer):
        def train(self, task: Task) -> Message:
            raise ZeroDivisionError("out of luck")

    from roles.aggregator import Aggregator
    from roles.rounds.task import Task as Round
    from transports.base import Channel

    class DyingMiddle(Aggregator):
        def distribute(self, channel: Channel, task: Round) -> None:
            raise ZeroDivisionError("out of luck")

    code = {"trainer-2": Dying, "middle-0": DyingMiddle}[lost]
    records = federate(coordinated(4, 1), job(code_of={lost: code}))
    assert all(record.error is not None for record in records.values())
    assert isinstance(records[lost].error, ZeroDivisionError)
    for name, record in records.items():
        if name != lost:
            assert f"{lost} failed: out of luck" in str(record.error), name
