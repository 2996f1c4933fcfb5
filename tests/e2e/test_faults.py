"""Workers that die, freeze or fail at every stage, under each policy: what the job makes of it, what it says, what it leaves."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests import chaos_points as chaos
from tests.chaos.remains import lasting_segments

ROUNDS = 3
MODULES = str(Path(chaos.__file__).parent)


@pytest.fixture
def suffer(flame_run: Any, tmp_path: Path) -> Callable[..., Any]:
    """Run the smoke job with one fault, which has happened; `times` None: again and again."""

    def run(
        worker: str, point: str, what: str, *overrides: str, round: int | None = None, times: int | None = 1, count: int | None = 1
    ) -> Any:
        fault = chaos.fault(worker, point, what, tmp_path / "fault", round=round, times=times)
        early = [chaos.preload()] if point == "registering" else []
        result = flame_run(
            "experiment=smoke", "tracking=none", f"job.hyperparameters.rounds={ROUNDS}",
            *chaos.code(trainer="Trainer", aggregator="Aggregator"), *early, *overrides,
            env={**chaos.environment(fault), "PYTHONPATH": MODULES},
        )  # fmt: skip
        assert count is None or chaos.happened(fault) == count, result.text + result.stderr
        return result

    return run


@pytest.fixture(scope="session")
def undisturbed() -> dict[str, str]:
    """The hash of the model of a job in which nothing happens, once it is known."""
    return {}


@pytest.fixture
def same_model(undisturbed: dict[str, str], suffer: Callable[..., Any]) -> Callable[[Any], bool]:
    """Whether the model of a run is that of an undisturbed one, to the bit."""
    if not undisturbed:
        run = suffer("nobody", "nowhere", "SIGKILL", count=0)
        undisturbed["hash"] = run.json("summary.json")["model_sha256"]
    return lambda run: bool(run.json("summary.json")["model_sha256"] == undisturbed["hash"])


def states(run: Any, worker: str) -> list[str]:
    """The states of a worker, each once as long as it lasts."""
    found: list[str] = []
    for record in run.records("tasks.jsonl"):
        if record["worker"] == worker and found[-1:] != [record["state"]]:
            found.append(record["state"])
    return found


@pytest.mark.parametrize(
    ("point", "what", "round", "words"),
    [
        ("registering", "SIGKILL", None, "killed by SIGKILL"),
        ("assembling", "raise:MemoryError", None, "MemoryError"),
        pytest.param("joining", "_exit:0", None, "exit status 0", marks=pytest.mark.long),
        pytest.param("receiving", "SIGKILL", 2, "killed by SIGKILL", marks=pytest.mark.long),
        ("training", "exit:0", 1, "SystemExit: 0"),
        ("uploading", "SIGKILL", 2, "killed by SIGKILL"),
        ("between", "unpicklable", 2, "Unpicklable: chaos"),
        ("ending", "exit:3", None, "SystemExit: 3"),
    ],
)
def test_with_continue_the_job_completes_without_the_trainer_that_is_lost(
    point: str, what: str, round: int | None, words: str, suffer: Callable[..., Any]
) -> None:
    run = suffer("trainer-1", point, what, "faults.on_worker_loss=continue", round=round)
    assert run.process.returncode == 0, run.text + run.stderr
    summary = run.json("summary.json")
    assert (summary["status"], summary["rounds"], summary["error"]) == ("completed", ROUNDS, None)
    assert summary["workers"] == {"trainer-0": "completed", "trainer-1": "failed", "aggregator-0": "completed"}
    (warning,) = [line for line in run.lines if line.startswith("warning: trainer-1")]
    assert words in warning
    assert "the job goes on without it" in warning
    assert point == "registering" or Path(warning.rpartition("its log: ")[2]).is_file()
    assert next(record["error"] for record in run.records("tasks.jsonl") if record["state"] == "failed")


@pytest.mark.parametrize(
    ("worker", "point", "what", "round"),
    [
        ("trainer-1", "registering", "SIGKILL", None),
        pytest.param("trainer-1", "assembling", "raise:RuntimeError", None, marks=pytest.mark.long),
        pytest.param("trainer-1", "joining", "SIGKILL", None, marks=pytest.mark.long),
        ("trainer-1", "receiving", "_exit:3", 2),
        ("trainer-1", "training", "SIGSEGV", 2),
        ("trainer-1", "uploading", "SIGKILL", 1),
        pytest.param("trainer-1", "between", "unpicklable", 1, marks=pytest.mark.long),
        pytest.param("aggregator-0", "registering", "SIGKILL", None, marks=pytest.mark.long),
        ("aggregator-0", "joining", "raise:MemoryError", None),
        pytest.param("aggregator-0", "distributing", "SIGKILL", 2, marks=pytest.mark.long),
        ("aggregator-0", "aggregating", "SIGKILL", 2),
        pytest.param("aggregator-0", "between", "SIGKILL", 2, marks=pytest.mark.long),
    ],
)
def test_with_restart_a_lost_worker_is_started_again_and_the_model_is_the_same_to_the_bit(  # noqa: PLR0917 - what pytest fills in
    worker: str, point: str, what: str, round: int | None, suffer: Callable[..., Any], same_model: Callable[[Any], bool]
) -> None:
    run = suffer(worker, point, what, "faults.on_worker_loss=restart", "faults.backoff=0.1", round=round)
    assert run.process.returncode == 0, run.text + run.stderr
    summary = run.json("summary.json")
    assert (summary["status"], summary["rounds"]) == ("completed", ROUNDS)
    assert set(summary["workers"].values()) == {"completed"}
    assert same_model(run)
    mine = [record for record in run.records("tasks.jsonl") if record["worker"] == worker]
    (lost,) = [place for place, record in enumerate(mine) if record["state"] == "restarting"]
    assert [record["state"] for record in mine[lost:]][:3] == ["restarting", "starting", "running"]
    assert mine[lost]["error"]
    assert len({record["pid"] for record in mine[lost + 1 :]} - {None}) == 1
    assert mine[lost]["pid"] != mine[-1]["pid"]
    assert not lasting_segments()


@pytest.mark.parametrize("policy", ["fail", "continue", "restart"])
def test_a_frozen_worker_is_lost_after_the_heartbeat_and_killed(
    policy: str, suffer: Callable[..., Any], same_model: Callable[[Any], bool]
) -> None:
    run = suffer("trainer-1", "training", "SIGSTOP", f"faults.on_worker_loss={policy}", "faults.heartbeat=6", round=2)
    words = "trainer-1 was silent for 6 s"
    assert run.process.returncode == (1 if policy == "fail" else 0), run.text + run.stderr
    if policy == "fail":
        assert words in run.stderr
        assert "worker.log" in run.text + run.stderr
    else:
        assert words in run.text
    if policy == "restart":
        assert same_model(run)
    frozen = re.search(r"chaos: SIGSTOP: .*, process (\d+)", (run.folder / "workers" / "trainer-1" / "worker.log").read_text())
    assert frozen is not None
    assert not Path(f"/proc/{frozen[1]}").exists()


def test_the_loss_of_the_only_root_fails_the_job_that_goes_on_without_others(suffer: Callable[..., Any]) -> None:
    run = suffer("aggregator-0", "aggregating", "SIGKILL", "faults.on_worker_loss=continue", round=2)
    assert run.process.returncode == 1
    assert "aggregator-0 was killed by SIGKILL (out of memory?) in round 2; the job cannot go on without it" in run.stderr
    assert run.json("summary.json")["workers"]["aggregator-0"] == "failed"


def test_too_few_ends_for_the_quorum_fail_the_job_and_say_who_is_missing(suffer: Callable[..., Any]) -> None:
    run = suffer("trainer-1", "training", "SIGKILL", "faults.on_worker_loss=continue", "faults.min_ends=2", round=2)
    assert run.process.returncode == 1
    assert "round 2" in run.stderr
    assert "trainer-1" in run.stderr
    assert run.json("summary.json")["workers"]["trainer-1"] == "failed"


def test_a_worker_that_dies_again_and_again_uses_its_restarts_up(suffer: Callable[..., Any]) -> None:
    overrides = ["faults.on_worker_loss=restart", "faults.max_restarts=2", "faults.backoff=0.05"]
    run = suffer("trainer-1", "training", "raise:ValueError", *overrides, times=None, count=3)
    assert run.process.returncode == 1
    assert "trainer-1 failed" in run.stderr
    assert "ValueError: chaos" in run.stderr
    assert "it had been restarted twice already (faults.max_restarts)" in run.stderr
    assert states(run, "trainer-1") == [
        "ready", "starting", "running", "restarting", "starting", "running", "restarting", "starting", "running", "failed",
    ]  # fmt: skip
    assert len(re.findall("chaos: raise:ValueError", (run.folder / "workers" / "trainer-1" / "worker.log").read_text())) == 3


def test_threads_of_one_process_go_on_without_the_one_that_failed(suffer: Callable[..., Any]) -> None:
    run = suffer("trainer-1", "training", "raise:RuntimeError", "launcher=debug", "faults.on_worker_loss=continue", round=2)
    assert run.process.returncode == 0, run.text + run.stderr
    assert run.json("summary.json")["workers"]["trainer-1"] == "failed"


@pytest.mark.parametrize("launcher", ["joblib", "submitit_local"])
def test_a_dead_process_of_a_foreign_launcher_is_seen_and_named(launcher: str, suffer: Callable[..., Any]) -> None:
    run = suffer("trainer-1", "training", "SIGKILL", f"launcher={launcher}", round=2)
    assert run.process.returncode == 1
    assert "trainer-1" in run.stderr
    assert run.json("summary.json")["workers"]["trainer-1"] == "failed"
