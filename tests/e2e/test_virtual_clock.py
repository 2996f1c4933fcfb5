"""Asynchronous jobs by a virtual clock, run by the real command: the same bits whatever the processes and the network do."""

import json
import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

GATED = """
import os
from pathlib import Path
from roles import Trainer

class Gated(Trainer):
    def train(self, task):
        if task.round >= 3:
            # Opening a named pipe lasts until somebody has opened its other side.
            with Path(os.environ["GATE"]).open("rb"):
                pass
        return super().train(task)
"""
TINY = ("job.hyperparameters.rounds=6", "job.evaluate.every=0", "+model.trainer.limit_train_batches=3", "tracking=none")


def outcome(run: Any) -> tuple[str, Mapping[int, float]]:
    """Hash of the model, and what the virtual clock said after each round."""
    assert run.process.returncode == 0, run.text + run.stderr
    times = {each["round"]: each["value"] for each in run.records("metrics.jsonl") if each["name"] == "virtual_seconds"}
    return run.json("summary.json")["model_sha256"], times


@pytest.mark.parametrize("experiment", ["async_two_tier", "async_hierarchical"])
def test_processes_over_a_network_and_threads_of_one_process_do_the_same(experiment: str, flame_run: Any) -> None:
    network = outcome(flame_run(f"experiment={experiment}", "launcher=local", "transport=grpc", *TINY))
    threads = outcome(flame_run(f"experiment={experiment}", "launcher=debug", *TINY))
    assert network == threads
    assert list(threads[1]) == [1, 2, 3, 4, 5, 6]
    assert list(threads[1].values()) == sorted(threads[1].values())


def test_a_synchronous_job_waits_for_its_slowest_worker_by_that_clock(flame_run: Any, tmp_path: Path) -> None:
    trace = tmp_path / "trace.csv"
    trace.write_text("worker,round,compute,network\ntrainer-0,1,2.5,0.25\ntrainer-0,2,7,0\n")
    clock = f"job.simulatedTime={{compute: 1, workers: {{trainer-1: 4}}, trace: {trace}}}"
    _, times = outcome(flame_run("experiment=smoke", clock, *TINY, "job.hyperparameters.rounds=3"))
    assert times == {1: 4.0, 2: 11.0, 3: 18.0}


def test_without_the_clock_an_asynchronous_job_runs_as_fast_as_its_workers(flame_run: Any) -> None:
    run = flame_run("experiment=async_two_tier", "job.simulatedTime=null", *TINY)
    assert run.process.returncode == 0, run.text + run.stderr
    updates = [each["value"] for each in run.records("metrics.jsonl") if each["name"] == "updates"]
    assert updates == [2.0] * 6


@pytest.mark.parametrize(("policy", "ends"), [("continue", "failed"), ("restart", "completed")])
@pytest.mark.parametrize(("experiment", "worker"), [("async_two_tier", "trainer-1"), ("async_hierarchical", "middle-aggregator-1")])
def test_an_asynchronous_job_survives_a_killed_worker(  # noqa: PLR0917 - what pytest fills in
    experiment: str, worker: str, policy: str, ends: str, start: Any, tmp_path: Path
) -> None:
    (tmp_path / "gated.py").write_text(GATED)
    os.mkfifo(tmp_path / "gate")
    words = ["job.simulatedTime=null", f"faults.on_worker_loss={policy}", "job.hyperparameters.rounds=10", "algorithm.k=1"]
    words += ["+job.code.trainer=gated.Gated", "+model.trainer.limit_train_batches=3", "tracking=none"]
    run = start(f"experiment={experiment}", *words, env={"GATE": str(tmp_path / "gate")})
    run.await_line("round 2/")
    (plan,) = run.cwd.rglob("tasks.jsonl")
    records = [json.loads(line) for line in plan.read_text().splitlines()]
    os.kill(next(each["pid"] for each in reversed(records) if each["worker"] == worker and each["pid"]), signal.SIGKILL)
    # For reading as well, so that it opens at once. Until then the job cannot have come to its end.
    gate = os.open(tmp_path / "gate", os.O_RDWR)
    assert run.finish() == 0, run.text + run.stderr
    os.close(gate)
    summary = run.json("summary.json")
    assert (summary["status"], summary["rounds"]) == ("completed", 10)
    assert summary["workers"][worker] == ends
    assert not run.left_over()
