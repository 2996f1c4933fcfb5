import math
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from roles.null import NullTrainer
from roles.role import Role
from roles.rounds.average import WEIGHTS
from roles.settings import Share, Stop
from roles.trainer import Task, Trainer
from tests.ring.layouts import ALL, RING, SIZES, data_of, errors, federation, hybrid, ring
from tests.roles import oracle
from tests.roles.federation import PATIENCE, Federation, Layout, Worker
from tests.roles.specimens import CLASSES, FEATURES, Classifier, Points, classifier, mlp
from transports.message import Message


@pytest.mark.parametrize("workers", [1, 2, 3, 5])
def test_a_ring_equals_federated_averaging(workers: int, tmp_path: Path) -> None:
    records = federation(ring(workers), tmp_path).run()
    assert errors(records) == dict.fromkeys(records)
    expected = oracle.fedavg(classifier(), data_of(workers), seed=4, rounds=3, epochs=1)[-1]
    assert oracle.largest_difference(torch.load(tmp_path / "last.pt", weights_only=True), expected) < 1e-6
    assert [record.rounds for record in records.values()] == [[1, 2, 3]] * workers


@pytest.mark.parametrize("groups", [{"eu": 2, "na": 2}, {"eu": 3, "na": 1}, {"eu": 1, "na": 1}, {"eu": 4}])
def test_rings_below_an_aggregator_equal_flat_federated_averaging(groups: dict[str, int], tmp_path: Path) -> None:
    layout = hybrid(groups)
    records = federation(layout, tmp_path).run()
    assert errors(records) == dict.fromkeys(records)
    expected = oracle.fedavg(classifier(), data_of(sum(groups.values())), seed=4, rounds=3, epochs=1)[-1]
    assert oracle.largest_difference(torch.load(tmp_path / "last.pt", weights_only=True), expected) < 1e-6
    assert records["aggregator-0"].metrics_of("samples") == dict.fromkeys((1, 2, 3), float(sum(SIZES[: sum(groups.values())])))
    assert records["aggregator-0"].metrics_of("missing_ends") == {}


def test_each_member_sends_its_share_of_the_model_in_every_round(tmp_path: Path) -> None:
    values = 64 * 1024
    wide = classifier(lambda: nn.Sequential(nn.Linear(FEATURES, values, bias=False), nn.Flatten(), nn.Linear(values, CLASSES)))
    records = federation(ring(4), tmp_path, build_module=wide, rounds=2).run()
    nbytes = 4 * (FEATURES * values + CLASSES * values + CLASSES)
    for record in records.values():
        assert list(record.metrics_of("ring_bytes")) == [1, 2]
        for sent in record.metrics_of("ring_bytes").values():
            assert sent == pytest.approx(2 * 3 / 4 * nbytes, abs=6 * 64)


def test_batch_norm_and_its_counters_go_round_too(tmp_path: Path) -> None:
    build = classifier(lambda: nn.Sequential(nn.Linear(FEATURES, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, CLASSES)))
    assert errors(records := federation(ring(2), tmp_path, build_module=build).run()) == dict.fromkeys(records)
    expected = oracle.fedavg(build, data_of(2), seed=4, rounds=3, epochs=1)[-1]
    found = torch.load(tmp_path / "last.pt", weights_only=True)
    assert found["net.1.num_batches_tracked"] == expected["net.1.num_batches_tracked"] > 0
    assert oracle.largest_difference(found, expected) < 1e-5


def test_frozen_parameters_stay_and_do_not_go_round(tmp_path: Path) -> None:
    def build() -> Classifier:
        module = Classifier(mlp())
        for parameter in list(module.parameters())[:2]:
            parameter.requires_grad = False
        return module

    records = federation(ring(3), tmp_path, build_module=build).run()
    assert errors(records) == dict.fromkeys(records)
    expected = oracle.fedavg(build, data_of(3), seed=4, rounds=3, epochs=1)[-1]
    assert oracle.largest_difference(torch.load(tmp_path / "last.pt", weights_only=True), expected) < 1e-6


def test_all_begin_from_the_model_of_the_leader_and_end_with_the_same_bits(tmp_path: Path) -> None:
    base = {name: value + 0.1 for name, value in classifier()().state_dict().items()}
    torch.save(base, tmp_path / "base.pt")
    other = classifier(lambda: nn.Sequential(nn.Linear(FEATURES, 8), nn.ReLU(), nn.Linear(8, CLASSES)))
    federated = federation(ring(3), tmp_path, settings={"base_model": str(tmp_path / "base.pt")}, modules={"trainer-1": other})
    assert errors(records := federated.run()) == dict.fromkeys(records)
    expected = oracle.fedavg(classifier(), data_of(3), seed=4, rounds=3, epochs=1, initial=base)[-1]
    assert oracle.largest_difference(torch.load(tmp_path / "last.pt", weights_only=True), expected) < 1e-6


def test_the_same_job_gives_the_same_bits_again(tmp_path: Path) -> None:
    states = []
    for folder in (tmp_path / "one", tmp_path / "two"):
        federation(ring(5), folder).run()
        states.append(torch.load(folder / "last.pt", weights_only=True))
    assert oracle.same_bits(*states)


def test_only_the_leader_reports_evaluations_checkpoints_and_the_result(tmp_path: Path) -> None:
    records = federation(ring(3), tmp_path, build_test_data=lambda: Points(0, 8)).run()
    assert list(records["trainer-0"].metrics_of("accuracy")) == [1, 2, 3]
    assert len(records["trainer-0"].results) == 1
    assert records["trainer-0"].results[0]["metrics"].keys() == {"loss", "accuracy"}
    assert all(not records[name].results and not records[name].metrics_of("accuracy") for name in ("trainer-1", "trainer-2"))
    assert sorted(path.name for path in tmp_path.glob("round-*.pt")) == ["round-00002.pt", "round-00003.pt"]


def test_an_early_end_reaches_every_member() -> None:
    stop = {"stop": Stop(metric="accuracy", target=0.0)}
    records = federation(ring(3), settings=stop, rounds=9, build_test_data=lambda: Points(0, 8)).run()
    assert errors(records) == dict.fromkeys(records)
    assert [record.rounds for record in records.values()] == [[1]] * 3
    assert "reached the target" in records["trainer-0"].results[0]["stopped"]


@pytest.mark.parametrize("layout", [ring(3), hybrid({"eu": 2, "na": 1})], ids=["ring", "hybrid"])
@pytest.mark.parametrize("worker", ["trainer-0", "trainer-1"])
def test_an_update_that_is_not_finite_is_left_out_and_said(worker: str, layout: Layout, tmp_path: Path) -> None:
    class Broken(Trainer):
        def train(self, task: Task) -> Message:
            update = super().train(task)
            if task.round == 2:
                next(iter(update.groups[WEIGHTS].values())).fill_(math.nan)
            return update

    quorum = replace(ALL, min_ends=0.5)
    records = federation(layout, tmp_path, quorum=quorum, code_of={worker: Broken}).run()
    assert errors(records) == dict.fromkeys(records)
    assert records[worker].metrics_of("refused_updates") == {2: 1.0}

    def there(round: int, name: str) -> bool:
        return (round, name) != (2, worker)

    expected = oracle.fedavg(classifier(), data_of(3), seed=4, rounds=3, epochs=1, takes_part=there)[-1]
    assert oracle.largest_difference(torch.load(tmp_path / "last.pt", weights_only=True), expected) < 1e-6


def test_uniform_weights_make_the_plain_mean(tmp_path: Path) -> None:
    settings = {"share": Share(weighted_by="uniform")}
    for name, layout in (("ring", ring(3)), ("hybrid", hybrid({"eu": 2, "na": 1}))):
        federation(layout, tmp_path / name, settings=settings).run()
        expected = oracle.fedavg(classifier(), data_of(3), seed=4, rounds=3, epochs=1, uniform=True)[-1]
        assert oracle.largest_difference(torch.load(tmp_path / name / "last.pt", weights_only=True), expected) < 1e-6


class Punctual(Federation):
    """A federation in which one worker is not started before somebody trains a round."""

    late = "trainer-2"
    round = 2

    def __init__(self, *arguments: Any, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self._due = False

    def _start(self, worker: Worker, *, resume: bool) -> None:
        if self._due or worker.name != self.late:
            super()._start(worker, resume=resume)

    def trained(self, round: int) -> None:
        if round == self.round and not self._due:
            self._due = True
            self._start(next(worker for worker in self.layout.workers if worker.name == self.late), resume=False)


@pytest.mark.parametrize("late", ["trainer-1", "trainer-2"])
def test_a_worker_that_comes_late_gets_the_model_and_takes_part_from_then_on(late: str, tmp_path: Path) -> None:
    federated: list[Punctual] = []
    there = threading.Event()

    class Early(Trainer):
        """Counts the seconds when the other one that comes early is there; then only the late one is missing."""

        def join(self) -> None:
            channel = self.channel(RING[0])
            channel.wait_joined([end for end in channel.spec.ends if end != late], PATIENCE)
            super().join()

    class Watched(Early):
        def train(self, task: Task) -> Message:
            federated[0].trained(task.round)
            if task.round == Punctual.round:
                with self.context.endpoint.mailbox.gate.released():  # type: ignore[attr-defined]
                    assert there.wait(PATIENCE)
            return super().train(task)

    class Late(Trainer):
        def join(self) -> None:
            super().join()
            there.set()

    quorum = replace(ALL, min_ends=2, join_timeout=0.05)
    code: dict[str, type[Role]] = {"trainer-0": Watched, "trainer-1": Early, "trainer-2": Early, late: Late}
    made = federation(ring(3), tmp_path, quorum=quorum, rounds=4, code_of=code)
    federated.append(Punctual(made.layout, made.job))
    federated[0].late = late
    records = federated[0].run()
    assert errors(records) == dict.fromkeys(records)
    first = records[late].rounds[0]
    assert records[late].rounds == list(range(first, 5))
    assert first in {2, 3}

    def takes_part(round: int, name: str) -> bool:
        return name != late or round >= first

    expected = oracle.fedavg(classifier(), data_of(3), seed=4, rounds=4, epochs=1, takes_part=takes_part)[-1]
    assert oracle.largest_difference(torch.load(tmp_path / "last.pt", weights_only=True), expected) < 1e-6


def test_two_rings_without_an_aggregator_are_two_jobs() -> None:
    workers = tuple(Worker(f"trainer-{i}", "trainer", {"ring": "eu" if i < 2 else "na"}) for i in range(4))
    layout = Layout({"trainer": Trainer}, {"ring": {"trainer": RING}}, workers)
    records = federation(layout).run()
    assert errors(records) == dict.fromkeys(records)
    assert [bool(records[name].results) for name in layout.trainers] == [True, False, True, False]


@pytest.mark.parametrize("layout", [ring(3), hybrid({"eu": 2, "na": 1})], ids=["ring", "hybrid"])
def test_trainers_that_train_nothing_keep_the_model(layout: Layout, tmp_path: Path) -> None:
    null = Layout({**layout.code, "trainer": NullTrainer}, layout.tags, layout.workers)
    assert errors(records := federation(null, tmp_path).run()) == dict.fromkeys(records)
    initial = oracle.fedavg(classifier(), {}, seed=4, rounds=0, epochs=1)[0]
    assert oracle.largest_difference(torch.load(tmp_path / "last.pt", weights_only=True), initial) < 1e-6
