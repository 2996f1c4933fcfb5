"""Members of a ring that die, by the real command in real processes: what the job makes of it under each policy."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests import chaos_points as chaos

ROUNDS = 3
MODULES = str(Path(chaos.__file__).parent)
TRAINERS = [f"trainer-{index}" for index in range(4)]


@pytest.fixture
def suffer(flame_run: Any, tmp_path: Path) -> Callable[..., Any]:
    """Run a small job of an experiment with one fault, which has happened."""

    def run(experiment: str, worker: str, point: str, *overrides: str, what: str = "SIGKILL", round: int | None = 2) -> Any:
        fault = chaos.fault(worker, point, what, tmp_path / f"fault-{worker}", round=round)
        result = flame_run(
            f"experiment={experiment}", "tracking=none", f"job.hyperparameters.rounds={ROUNDS}",
            "+model.trainer.limit_train_batches=5", *chaos.code(trainer="Trainer"), "faults.backoff=0.1", *overrides,
            env={**chaos.environment(fault), "PYTHONPATH": MODULES},
        )  # fmt: skip
        assert chaos.happened(fault) == (worker != "nobody"), result.text + result.stderr
        return result

    return run


@pytest.fixture(scope="session")
def undisturbed() -> dict[str, str]:
    """Experiment -> the hash of the model of a job in which nothing happens, once it is known."""
    return {}


@pytest.fixture
def same_model(undisturbed: dict[str, str], suffer: Callable[..., Any]) -> Callable[[str, Any], bool]:
    """Whether the model of a run is that of an undisturbed one, to the bit."""

    def same(experiment: str, run: Any) -> bool:
        if experiment not in undisturbed:
            undisturbed[experiment] = suffer(experiment, "nobody", "nowhere").json("summary.json")["model_sha256"]
        return bool(run.json("summary.json")["model_sha256"] == undisturbed[experiment])

    return same


@pytest.mark.parametrize(
    ("worker", "point"),
    [
        ("trainer-2", "reducing"),
        ("trainer-0", "reducing"),
        ("trainer-0", "training"),
        pytest.param("trainer-1", "training", marks=pytest.mark.long),
        pytest.param("trainer-0", "between", marks=pytest.mark.long),
    ],
)
def test_with_continue_a_ring_goes_on_without_the_member_that_is_lost(worker: str, point: str, suffer: Callable[..., Any]) -> None:
    run = suffer("distributed", worker, point, "faults.on_worker_loss=continue")
    assert run.process.returncode == 0, run.text + run.stderr
    summary = run.json("summary.json")
    assert (summary["status"], summary["rounds"], summary["error"]) == ("completed", ROUNDS, None)
    assert summary["workers"] == {name: "failed" if name == worker else "completed" for name in TRAINERS}
    assert list(summary["roots"]) == ["trainer-1" if worker == "trainer-0" else "trainer-0"]
    assert set(summary["metrics"]) == {"loss", "accuracy"}
    assert Path(summary["model"]).is_file()
    (warning,) = [line for line in run.lines if line.startswith(f"warning: {worker}")]
    assert "killed by SIGKILL" in warning
    assert "the job goes on without it" in warning


@pytest.mark.parametrize(
    ("experiment", "worker", "point"),
    [
        ("distributed", "trainer-1", "reducing"),
        ("distributed", "trainer-0", "reducing"),
        pytest.param("distributed", "trainer-0", "training", marks=pytest.mark.long),
        ("hybrid", "trainer-0", "reducing"),
        pytest.param("hybrid", "trainer-1", "reducing", marks=pytest.mark.long),
        pytest.param("hybrid", "trainer-2", "uploading", marks=pytest.mark.long),
    ],
)
def test_with_restart_a_member_comes_back_and_the_model_is_the_same_to_the_bit(
    experiment: str, worker: str, point: str, suffer: Callable[..., Any], same_model: Callable[[str, Any], bool]
) -> None:
    run = suffer(experiment, worker, point, "faults.on_worker_loss=restart")
    assert run.process.returncode == 0, run.text + run.stderr
    summary = run.json("summary.json")
    assert (summary["status"], summary["rounds"]) == ("completed", ROUNDS)
    assert set(summary["workers"].values()) == {"completed"}
    assert "restarting" in [record["state"] for record in run.records("tasks.jsonl") if record["worker"] == worker]
    assert same_model(experiment, run)


def test_with_fail_the_loss_of_a_member_fails_the_job_and_names_it(suffer: Callable[..., Any]) -> None:
    run = suffer("distributed", "trainer-1", "reducing")
    assert run.process.returncode == 1
    assert "trainer-1 was killed by SIGKILL (out of memory?) in round 2" in run.stderr


def test_in_a_hybrid_job_the_others_of_a_group_go_on(suffer: Callable[..., Any]) -> None:
    run = suffer("hybrid", "trainer-0", "reducing", "faults.on_worker_loss=continue")
    assert run.process.returncode == 0, run.text + run.stderr
    summary = run.json("summary.json")
    assert (summary["status"], summary["rounds"]) == ("completed", ROUNDS)
    assert [name for name, state in summary["workers"].items() if state == "failed"] == ["trainer-0"]


def test_a_ring_whose_processes_all_died_goes_on_from_its_checkpoint(
    suffer: Callable[..., Any], same_model: Callable[[str, Any], bool], flame_run: Any, tmp_path: Path
) -> None:
    suffer("distributed", "trainer-1", "reducing", "hydra.run.dir=here", what="everybody", round=3)
    assert not (tmp_path / "here" / "summary.json").exists()
    _, lasting = psutil.wait_procs([each for each in psutil.process_iter() if _of(each, tmp_path)], timeout=30)
    assert not lasting
    run = flame_run("resume", "here", env={"PYTHONPATH": MODULES})
    assert run.process.returncode == 0, run.text + run.stderr
    assert run.json("summary.json")["rounds"] == ROUNDS
    assert same_model("distributed", run)


def _of(process: psutil.Process, folder: Path) -> bool:
    """Whether a process works in a folder."""
    try:
        return Path(process.cwd()).is_relative_to(folder)
    except psutil.Error:
        return False
