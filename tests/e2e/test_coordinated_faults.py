"""Coordinated jobs on three levels and asynchronous ones, in real processes that are killed: who goes on, and with whom."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests import chaos_points as chaos

MODULES = str(Path(chaos.__file__).parent)
ROUNDS = {"coordinated_async": 6, "coordinated_three_level": 3}
ROLES = {"coordinator": "Coordinator", "top_aggregator": "Aggregator", "middle_aggregator": "Aggregator", "trainer": "Trainer"}
# Both middle aggregators are in every step of the root: otherwise it is luck which rounds each of them begins.
STEPS = {"coordinated_async": ("job.hyperparameters.aggGoal=2",), "coordinated_three_level": ()}
CONTINUE, RESTART = "faults.on_worker_loss=continue", ("faults.on_worker_loss=restart", "faults.backoff=0.1")


@pytest.fixture
def suffer(flame_run: Any, tmp_path: Path) -> Callable[..., Any]:
    """Run an experiment at tiny size while one worker is killed at a point of a round.

    Of a `worker` without a number the first is killed that gets there: in an asynchronous job one may be too late for all of it.
    """

    def run(experiment: str, worker: str, point: str, *overrides: str, round: int | None) -> Any:
        names = [worker] if worker[-1].isdigit() or worker == "nobody" else [f"{worker}-{index}" for index in range(6)]
        faults = [chaos.fault(name, point, "SIGKILL", tmp_path / worker, round=round) for name in names]
        roles = ROLES | ({"leaf_aggregator": "Aggregator"} if experiment == "coordinated_three_level" else {})
        result = flame_run(
            f"experiment={experiment}", "tracking=none", "model=mnist_mlp", "+model.trainer.limit_train_batches=3",
            f"job.hyperparameters.rounds={ROUNDS[experiment]}", *chaos.code(**roles), *overrides,
            env={**chaos.environment(*faults), "PYTHONPATH": MODULES},
        )  # fmt: skip
        assert chaos.happened(faults[0]) == (worker != "nobody"), result.text + result.stderr
        return result

    return run


def summary_of(run: Any) -> Any:
    """The summary of a run that completed."""
    assert run.process.returncode == 0, run.text + run.stderr
    return run.json("summary.json")


@pytest.mark.parametrize("launcher", ["local", "debug"])
def test_an_asynchronous_job_with_a_coordinator_completes(launcher: str, flame_run: Any) -> None:
    size = ["model=mnist_mlp", "+model.trainer.limit_train_batches=3", "job.hyperparameters.rounds=4", "tracking=none"]
    summary = summary_of(flame_run("experiment=coordinated_async", *size, f"launcher={launcher}"))
    assert (summary["status"], summary["rounds"]) == ("completed", 4)
    assert set(summary["workers"].values()) == {"completed"}


@pytest.mark.parametrize(
    ("experiment", "worker", "point", "round"),
    [
        ("coordinated_async", "middle-aggregator", "aggregating", None),
        pytest.param("coordinated_async", "middle-aggregator", "distributing", 2, marks=pytest.mark.long),
        ("coordinated_async", "trainer", "training", None),
        ("coordinated_three_level", "leaf-aggregator-1", "aggregating", 2),
        pytest.param("coordinated_three_level", "middle-aggregator-0", "aggregating", 2, marks=pytest.mark.long),
    ],
)
def test_with_continue_the_others_go_on_without_who_is_lost(
    experiment: str, worker: str, point: str, round: int | None, suffer: Callable[..., Any]
) -> None:
    run = suffer(experiment, worker, point, CONTINUE, *STEPS[experiment], round=round)
    summary = summary_of(run)
    assert summary["rounds"] == ROUNDS[experiment]
    (lost,) = [name for name, state in summary["workers"].items() if state != "completed"]
    assert lost.startswith(worker)
    (warning,) = [line for line in run.lines if line.startswith(f"warning: {lost}")]
    assert "killed by SIGKILL" in warning


@pytest.mark.parametrize(
    ("worker", "point", "round"),
    [
        ("middle-aggregator", "aggregating", None),
        pytest.param("trainer", "uploading", None, marks=pytest.mark.long),
        ("coordinator-0", "telling", 2),
        pytest.param("top-aggregator-0", "aggregating", 3, marks=pytest.mark.long),
    ],
)
def test_with_restart_whoever_is_killed_takes_its_place_again(
    worker: str, point: str, round: int | None, suffer: Callable[..., Any]
) -> None:
    summary = summary_of(suffer("coordinated_async", worker, point, *RESTART, round=round))
    assert summary["rounds"] == ROUNDS["coordinated_async"]
    assert set(summary["workers"].values()) == {"completed"}


@pytest.mark.long
def test_on_three_levels_a_restart_changes_no_bit_of_the_model(suffer: Callable[..., Any]) -> None:
    calm = summary_of(suffer("coordinated_three_level", "nobody", "nowhere", round=None))
    kills = {"leaf-aggregator-1": "aggregating", "middle-aggregator-0": "distributing"}
    for worker, point in kills.items():
        summary = summary_of(suffer("coordinated_three_level", worker, point, *RESTART, round=2))
        assert set(summary["workers"].values()) == {"completed"}
        assert summary["model_sha256"] == calm["model_sha256"], worker


@pytest.mark.parametrize("policy", [pytest.param("fail", marks=pytest.mark.long), "continue"])
def test_without_its_coordinator_the_job_fails_by_its_name(policy: str, suffer: Callable[..., Any]) -> None:
    run = suffer("coordinated_async", "coordinator-0", "telling", f"faults.on_worker_loss={policy}", round=2)
    assert run.process.returncode == 1, run.text + run.stderr
    error = run.json("summary.json")["error"]
    assert "coordinator-0" in error
    assert "killed by SIGKILL" in error
