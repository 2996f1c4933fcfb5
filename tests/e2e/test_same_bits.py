"""The same configuration gives the same model to the bit, whoever starts the workers and whoever is first."""

import os
from pathlib import Path
from typing import Any

import pytest

SETTINGS = ["experiment=mnist_two_tier", "job.hyperparameters.rounds=2", "+model.trainer.limit_train_batches=5", "tracking=none"]

DELAYED = """
import os, time
from roles import Trainer

class DelayedTrainer(Trainer):
    def upload(self, channel, task, update):
        time.sleep(os.urandom(1)[0] / 512)
        super().upload(channel, task, update)
"""


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> str:
    from tests.e2e.conftest import Run

    run = Run(SETTINGS, tmp_path_factory.mktemp("expected"))
    assert run.finish() == 0, run.text + run.stderr
    return str(run.json("summary.json")["model_sha256"])


@pytest.mark.parametrize("launcher", ["cohort", "debug", "joblib", pytest.param("submitit_local", marks=pytest.mark.long)])
def test_every_launcher_gives_the_same_bits(launcher: str, expected: str, start: Any) -> None:
    run = start(*SETTINGS, f"launcher={launcher}")
    run.await_line("round 1/")
    assert run.finish() == 0, run.text + run.stderr
    assert run.json("summary.json")["model_sha256"] == expected
    pids = {record["pid"] for record in run.records("tasks.jsonl") if record["state"] == "completed"}
    assert len(pids) == {"debug": 1, "cohort": 1 + min(4, len(os.sched_getaffinity(0)))}.get(launcher, 5)
    assert not run.left_over()


def test_the_order_of_arrival_changes_no_bit(expected: str, tmp_path: Path, flame_run: Any) -> None:
    (tmp_path / "delayed.py").write_text(DELAYED)
    run = flame_run(*SETTINGS, "+job.code.trainer=delayed.DelayedTrainer")
    assert run.json("summary.json")["model_sha256"] == expected


def test_processes_that_load_data_change_no_bit(expected: str, flame_run: Any) -> None:
    run = flame_run(*SETTINGS, "+model.data.num_workers=1")
    assert run.process.returncode == 0, run.text + run.stderr
    assert run.json("summary.json")["model_sha256"] == expected
    assert not run.left_over()


def test_another_seed_gives_another_model(expected: str, flame_run: Any) -> None:
    assert flame_run(*SETTINGS, "job.seed=1").json("summary.json")["model_sha256"] != expected


def test_coordinated_runs_repeat_under_every_policy(flame_run: Any) -> None:
    settings = ["experiment=mnist_coordinated", *SETTINGS[1:]]
    for policy in ("round_robin", "balanced"):
        hashes = {flame_run(*settings, f"job.coordinate.policy={policy}").json("summary.json")["model_sha256"] for _ in range(2)}
        assert len(hashes) == 1
