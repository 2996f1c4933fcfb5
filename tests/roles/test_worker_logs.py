"""What Lightning writes for a worker: under steps that grow over the rounds, and in the worker's own folder."""

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch.callbacks import LearningRateMonitor
from lightning.pytorch.loggers import CSVLogger, Logger
from lightning.pytorch.loggers.logger import DummyLogger

from roles.fit import Evaluation, LocalTraining
from roles.fitters import Fitters
from tests.roles.fitting import ROUNDS, context_of, equal, network, rounds_of
from tests.roles.specimens import Classifier, Points

DATA = Points(1, 20)
STEPS = 8
"""Of a round: 2 epochs of 4 batches."""

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*does not have many workers",
    "ignore:.*is smaller than the logging interval",
    "ignore:.*exists and is not empty",
    "ignore:.*tensorboardX",
)


def steps_of(folder: Path, name: str) -> list[int]:
    """The steps under which CSV files of this folder have a value of `name`, in their order."""
    found = sorted(folder.rglob("metrics.csv"))
    assert len(found) == 1
    with found[0].open() as rows:
        return [int(row["step"]) for row in csv.DictReader(rows) if row[name]]


def test_steps_that_a_logger_sees_grow_over_the_rounds_and_nothing_else_changes(tmp_path: Path) -> None:
    module, unlogged = Classifier(network(), momentum=0.9), Classifier(network(), momentum=0.9)
    rates = LearningRateMonitor("step")
    options = {"logger": CSVLogger(tmp_path), "callbacks": [rates], "log_every_n_steps": 1}
    states = rounds_of(LocalTraining(context_of(options=options), module, DATA))
    without = rounds_of(LocalTraining(context_of(), unlogged, DATA))
    assert all(equal(one, other) for one, other in zip(states, without, strict=True))
    assert steps_of(tmp_path, "train_loss") == list(range(len(ROUNDS) * STEPS))
    assert steps_of(tmp_path, "lr-SGD") == list(range(len(ROUNDS) * STEPS))


def test_every_tenth_step_is_logged_whatever_round_it_falls_into(tmp_path: Path) -> None:
    options = {"logger": CSVLogger(tmp_path), "log_every_n_steps": 10}
    rounds_of(LocalTraining(context_of(options=options), Classifier(network()), DATA))
    assert steps_of(tmp_path, "train_loss") == [9, 19]


class Noting(DummyLogger):
    """Remembers the steps of what it gets."""

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[int] = []

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        assert step is not None
        self.steps.append(step)


class Logging(Classifier):
    """Gives its trainer a logger of its own, as a module may."""

    def __init__(self) -> None:
        super().__init__(network())
        self.own = Noting()

    def setup(self, stage: str) -> None:
        trainer: Any = self.trainer
        loggers: list[Logger] = [self.own]
        trainer.loggers = loggers
        trainer.log_every_n_steps = 1


def test_workers_that_share_a_trainer_each_count_their_own_steps() -> None:
    fitters, data = Fitters(), (Points(1, 20), Points(2, 10))
    modules = [Logging(), Logging()]
    both = [
        LocalTraining(context_of(f"t-{at}", fitters=fitters), module, points)
        for at, (module, points) in enumerate(zip(modules, data, strict=True))
    ]
    for round in ROUNDS:
        for each in both:
            each.fit(round)
    assert both[0].module.trainer is both[1].module.trainer
    assert [each.own.steps for each in modules] == [list(range(24)), list(range(12))]


def test_a_test_of_the_global_model_is_logged_under_its_round(tmp_path: Path) -> None:
    evaluation = Evaluation(context_of(options={"logger": CSVLogger(tmp_path)}), Classifier(network()), DATA)
    for round in ROUNDS:
        evaluation.test(round)
    assert steps_of(tmp_path, "accuracy") == list(ROUNDS)


WRITING = {"enable_checkpointing": True, "logger": True, "log_every_n_steps": 1}


def files_of(folder: Path) -> set[str]:
    return {path.suffix for path in folder.rglob("*") if path.is_file() and path.name != "hparams.yaml"}


def test_each_worker_writes_into_its_own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    working = tmp_path / "working"
    working.mkdir()
    monkeypatch.chdir(working)
    folders = [tmp_path / "t-0", tmp_path / "t-1"]
    both = [LocalTraining(context_of(each.name, WRITING, folder=each), Classifier(network()), DATA) for each in folders]
    root = tmp_path / "root"
    evaluation = Evaluation(context_of("root", WRITING, folder=root), Classifier(network()), DATA)
    for round in ROUNDS:
        for each in both:
            each.fit(round)
        evaluation.test(round)
    assert list(working.iterdir()) == []
    assert [files_of(each) for each in (*folders, root)] == [{".csv", ".ckpt"}] * 2 + [{".csv"}]
    assert [steps_of(each, "train_loss")[-1] for each in folders] == [len(ROUNDS) * STEPS - 1] * 2


def test_a_folder_that_the_user_chose_stays(tmp_path: Path) -> None:
    options = {**WRITING, "default_root_dir": str(tmp_path / "chosen")}
    context = context_of(options=options, folder=tmp_path / "own")
    LocalTraining(context, Classifier(network()), DATA).fit(1)
    Evaluation(context, Classifier(network()), DATA).test(1)
    assert [path.name for path in tmp_path.iterdir()] == ["chosen"]


@pytest.mark.parametrize("chosen", [None, "chosen"])
def test_a_shared_trainer_writes_where_the_worker_does_that_has_it(tmp_path: Path, chosen: str | None) -> None:
    class Writing(Classifier):
        def on_fit_start(self) -> None:
            folder = Path(self.trainer.default_root_dir)
            folder.mkdir(exist_ok=True)
            (folder / f"round-{sum(1 for _ in folder.iterdir())}").touch()

    fitters = Fitters()
    folders = [tmp_path / "t-0", tmp_path / "t-1"]
    options = {} if chosen is None else {"default_root_dir": str(tmp_path / chosen)}
    both = [
        LocalTraining(context_of(each.name, options, fitters=fitters, folder=each), Writing(network()), DATA) for each in folders
    ]
    for round in ROUNDS:
        for each in both:
            each.fit(round)
    assert both[0].module.trainer is both[1].module.trainer
    expected = {"t-0": 3, "t-1": 3} if chosen is None else {chosen: 6}
    assert {each.name: sum(1 for _ in each.iterdir()) for each in tmp_path.iterdir()} == expected
