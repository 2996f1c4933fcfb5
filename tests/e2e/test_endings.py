"""However a run ends: the right exit status, the right words, nothing left behind."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.chaos.remains import lasting_segments

ENDLESS = ["experiment=smoke", "job.hyperparameters.rounds=1000000", "tracking=none", "checkpoint.every=0"]

BROKEN = """
import os, signal, sys, threading
from roles import Trainer

class Raises(Trainer):
    def train(self, task):
        raise RuntimeError("the disk ate my gradients")

class Exits(Trainer):
    def train(self, task):
        sys.exit(3)

class Dies(Trainer):
    def train(self, task):
        os.kill(os.getpid(), signal.SIGKILL)

class Vanishes(Trainer):
    def train(self, task):
        os._exit(0)

class Unpicklable(Trainer):
    def train(self, task):
        raise type("Odd", (Exception,), {"__reduce__": lambda self: threading.Lock()})("cannot travel")

class Sleeps(Trainer):
    def train(self, task):
        threading.Event().wait()
"""

LATE = """
import threading
from roles import Trainer

class Late(Trainer):
    def __init__(self, context):
        threading.Event().wait()
"""


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    (tmp_path / "broken.py").write_text(BROKEN)
    return tmp_path


def only_first(name: str) -> list[str]:
    return ["experiment=smoke", "tracking=none", f"+job.code.trainer=broken.{name}"]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("Raises", "RuntimeError: the disk ate my gradients"),
        ("Exits", "SystemExit: 3"),
        ("Dies", "killed by SIGKILL"),
        ("Vanishes", "exit"),
        ("Unpicklable", "cannot travel"),
    ],
)
def test_a_worker_that_fails_ends_the_job_by_name_cause_and_log(name: str, words: str, broken: Path, flame_run: Any) -> None:
    run = flame_run(*only_first(name))
    assert run.process.returncode == 1, run.text + run.stderr
    assert re.search(r"trainer-[01]", run.stderr)
    assert words in run.stderr
    assert "worker.log" in run.text + run.stderr
    summary = run.json("summary.json")
    assert summary["status"] == "failed"
    assert words in summary["error"]
    assert "failed" in summary["workers"].values()
    assert summary["workers"]["aggregator-0"] == "terminated"


@pytest.mark.parametrize("victim", ["trainer-1", "aggregator-0"])
def test_a_killed_worker_ends_the_job_within_seconds(victim: str, start: Any) -> None:
    run = start(*ENDLESS)
    run.await_line("round 2/")
    folder = next((run.cwd / "outputs").glob("*/*"))
    pids = {record["worker"]: record["pid"] for record in run.records("tasks.jsonl", folder)}
    os.kill(pids[victim], signal.SIGKILL)
    assert run.finish() == 1
    assert f"{victim} was killed by SIGKILL" in run.stderr
    assert not run.left_over()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_run_with_130_and_leaves_nothing(number: signal.Signals, start: Any) -> None:
    run = start(*ENDLESS)
    run.await_line("round 2/")
    run.signal(number)
    assert run.finish() == 130
    assert run.json("summary.json")["status"] == "terminated"
    assert set(run.json("summary.json")["workers"].values()) == {"terminated"}
    assert not run.left_over()
    assert not (run.folder / ".rendezvous").exists()


def test_ctrl_c_in_a_terminal_reaches_the_whole_group_and_ends_like_one_to_the_runner(start: Any) -> None:
    run = start(*ENDLESS)
    run.await_line("round 2/")
    os.killpg(os.getpgid(run.process.pid), signal.SIGINT)
    assert run.finish() == 130
    assert not run.left_over()


def test_stop_ends_a_run_and_tasks_shows_it(start: Any, flame_run: Any) -> None:
    run = start(*ENDLESS)
    run.await_line("round 2/")
    folder = next((run.cwd / "outputs").glob("*/*"))
    live = flame_run("tasks", str(folder))
    assert "running" in live.text
    assert flame_run("stop", str(folder)).process.returncode == 0
    assert run.finish() == 130
    assert not run.left_over()
    assert "terminated" in flame_run("tasks", str(folder)).text
    assert flame_run("stop", str(folder)).process.returncode == 0


def test_a_killed_runner_takes_its_workers_along(start: Any) -> None:
    run = start(*ENDLESS)
    run.await_line("round 2/")
    assert len(run.family) >= 4
    run.signal(signal.SIGKILL)
    run.finish()
    assert not run.left_over()


def test_max_run_time_terminates_the_job(broken: Path, flame_run: Any) -> None:
    run = flame_run(*only_first("Sleeps"), "job.maxRunTime=6")
    assert run.process.returncode == 1
    assert "maxRunTime" in run.stderr
    assert run.json("summary.json")["status"] == "terminated"


def test_a_peer_that_never_comes_ends_as_a_message_with_its_name(broken: Path, flame_run: Any) -> None:
    (broken / "late.py").write_text(LATE)
    run = flame_run("experiment=smoke", "tracking=none", "+job.code.trainer=late.Late", "faults.join_timeout=5")
    assert run.process.returncode == 1
    assert "trainer-0" in run.stderr
    assert "join_timeout" in run.stderr or "5 s" in run.stderr


def test_a_run_folder_is_never_used_twice(flame_run: Any) -> None:
    first = flame_run("experiment=smoke", "tracking=none", "hydra.run.dir=here")
    before = {path: path.read_bytes() for path in first.folder.rglob("*") if path.is_file()}
    second = flame_run("experiment=smoke", "tracking=none", "hydra.run.dir=here", "job.seed=1")
    assert second.process.returncode == 2
    assert "holds a run already" in second.stderr
    assert {path: path.read_bytes() for path in first.folder.rglob("*") if path.is_file()} == before


def test_invalid_configuration_starts_and_writes_nothing(tmp_path: Path, flame_run: Any) -> None:
    wrong = ["job.hyperparameters.rounds=0", "dataset.datasets.0.url=htp://x", "faults.on_worker_loss=hope"]
    run = flame_run("experiment=smoke", *wrong)
    assert run.process.returncode == 2
    assert "Traceback" not in run.stderr
    for words in ("job.hyperparameters.rounds", "htp://x", "faults.on_worker_loss"):
        assert words in run.stderr
    assert run.text == ""
    assert not list(tmp_path.rglob("*.json*"))


def test_no_child_is_left_after_a_good_run(start: Any) -> None:
    run = start("experiment=smoke", "tracking=none")
    run.await_line("round 1/")
    assert run.finish() == 0
    assert not run.left_over()
    assert not lasting_segments()


def test_python_dash_m_is_the_command(tmp_path: Path) -> None:
    out = subprocess.run([sys.executable, "-m", "flame_run", "--version"], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert re.fullmatch(r"flame-run \d+\.\d+\.\d+\n", out.stdout)


def test_ctrl_c_ends_a_whole_sweep(start: Any) -> None:
    run = start("-m", "job.seed=1,2", *ENDLESS)
    run.await_line("round 2/")
    run.signal(signal.SIGINT)
    assert run.finish() == 130
    assert not run.left_over()
    assert len(list(run.cwd.glob("multirun/*/*/*/tasks.jsonl"))) == 1


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_run_needs_no_standard_streams(closed: str, tmp_path: Path) -> None:
    line = f"{sys.executable} -m flame_run experiment=smoke tracking=none hydra.run.dir=here {closed}"
    assert subprocess.run(["sh", "-c", line], cwd=tmp_path, check=False, capture_output=True).returncode == 0
    assert (tmp_path / "here" / "summary.json").is_file()


def test_a_run_folder_that_cannot_be_made_is_a_problem(flame_run: Any) -> None:
    run = flame_run("experiment=smoke", "tracking=none", "hydra.run.dir=/proc/nowhere")
    assert run.process.returncode == 2
    assert "hydra.run.dir = '/proc/nowhere'" in run.stderr
    assert "Traceback" not in run.stderr


def test_a_thread_that_fails_has_a_log_too(broken: Path, flame_run: Any) -> None:
    run = flame_run(*only_first("Raises"), "launcher=debug")
    assert run.process.returncode == 1
    named = re.search(r"its log: (\S+)", run.stderr)
    assert named is not None
    assert "RuntimeError: the disk ate my gradients" in Path(named[1]).read_text()
