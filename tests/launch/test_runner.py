"""Whole applications that launch workers as the runner does: nested in sweeps, killed, with every launcher."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

APP = Path(__file__).parent / "app" / "nest.py"
ROOT = Path(__file__).parents[2]
BARE = "launcher.preload=[]"
INNER = {"local": ["launcher=local", BARE], "joblib": ["launcher=joblib"], "submitit_local": ["launcher=submitit_local"]}
Gone = Callable[[Sequence[psutil.Process]], None]


@contextmanager
def application(folder: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    environment = {**os.environ, "FLAME_RUN_CONF": str(ROOT / "conf"), "CUDA_VISIBLE_DEVICES": "0", "OMP_NUM_THREADS": "7"}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    with subprocess.Popen(
        [sys.executable, str(APP), *arguments],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def run(folder: Path, *arguments: str) -> None:
    with application(folder, *arguments) as process:
        output, _ = process.communicate(timeout=240)
        assert process.returncode == 0, output


def results(run_folder: Path) -> list[dict[str, Any]]:
    loaded: list[dict[str, Any]] = json.loads((run_folder / "results.json").read_text())
    return loaded


def children_of(process: subprocess.Popen[str]) -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)


@pytest.mark.parametrize("launcher", INNER)
def test_workers_find_what_the_runner_has(tmp_path: Path, meeting: Any, launcher: str) -> None:
    meeting.quorum = 3
    run(tmp_path, *INNER[launcher], "hydra.run.dir=out", "rate=0.25")
    values = [each["value"] for each in results(tmp_path / "out")]
    assert [value["name"] for value in values] == ["w-0", "w-1", "w-2"]
    assert len({value["pid"] for value in values}) == 3
    for value in values:
        assert value["rate"] == 0.25
        assert value["output"] == str(tmp_path / "out" / "workers" / value["name"])
        assert value["rendezvous"] == str(tmp_path / "out" / "where, = they ${meet}'s")
        assert value["cwd"] == str(tmp_path)
        assert value["environment"]["CUDA_VISIBLE_DEVICES"] == "0"
        assert value["environment"]["OMP_NUM_THREADS"] == "7"
        assert str(ROOT) in value["environment"]["PYTHONPATH"].split(os.pathsep)
        assert value["here"]
        assert value["arguments"] == []
    assert "the parent still logs" in (tmp_path / "out" / "nest.log").read_text()
    assert list((tmp_path / "out").rglob("*.pkl")) == []
    assert list((tmp_path / "out").rglob("*.tmp")) == []


@pytest.mark.parametrize("launcher", INNER)
def test_one_worker_runs_in_a_process_of_its_own(tmp_path: Path, meeting: Any, launcher: str) -> None:
    meeting.quorum = 1
    run(tmp_path, *INNER[launcher], "hydra.run.dir=out", "workers=1")
    assert len(meeting.arrived) == 1
    assert [each["status"] for each in results(tmp_path / "out")] == ["COMPLETED"]


@pytest.mark.parametrize(
    ("outer", "inner"), [("joblib", "local"), ("joblib", "joblib"), ("submitit_local", "local"), ("basic", "joblib")]
)
def test_launches_nest_in_a_sweep(tmp_path: Path, meeting: Any, outer: str, inner: str) -> None:
    meeting.quorum = 3
    run(tmp_path, "-m", f"hydra/launcher={outer}", *INNER[inner], "hydra.sweep.dir=sweep", "rate=0.1,0.2")
    for number, rate in enumerate((0.1, 0.2)):
        values = [each["value"] for each in results(tmp_path / "sweep" / str(number))]
        assert [value["rate"] for value in values] == [rate] * 3
        assert {Path(value["output"]).parents[1] for value in values} == {tmp_path / "sweep" / str(number)}
    assert len({pid for _, _, pid in meeting.arrived}) == 6, "no worker process served two runs"


def test_runs_of_a_sweep_in_one_process_share_the_fork_server(tmp_path: Path, meeting: Any) -> None:
    with application(tmp_path, "-m", *INNER["local"], "hydra.sweep.dir=sweep", "rate=0.1,0.2") as process:
        servers = set()
        for count in (3, 6):
            pids = meeting.until(count)
            servers |= {psutil.Process(pid).ppid() for pid in pids[-3:]}
            for pid in pids[-3:]:
                os.kill(pid, signal.SIGKILL)
        process.communicate(timeout=240)
    assert len(servers) == 1


@pytest.mark.parametrize("launcher", INNER)
@pytest.mark.parametrize("act", ["exit", "raise"])
def test_a_worker_that_ends_badly_is_told_from_the_others(tmp_path: Path, launcher: str, act: str) -> None:
    run(tmp_path, *INNER[launcher], "hydra.run.dir=out", f"act={act}")
    outcomes = results(tmp_path / "out")
    assert [each["status"] for each in outcomes] == ["COMPLETED", "FAILED", "COMPLETED"]
    assert {"exit": "sys.exit(3)", "raise": "no luck"}[act] in outcomes[1]["value"]


@pytest.mark.parametrize("launcher", INNER)
def test_a_killed_runner_leaves_no_process(tmp_path: Path, meeting: Any, assert_gone: Gone, launcher: str) -> None:
    with application(tmp_path, *INNER[launcher], "hydra.run.dir=out") as process:
        workers = [psutil.Process(pid) for pid in meeting.until(3)]
        everything = {*workers, *children_of(process)}
        os.kill(process.pid, signal.SIGKILL)
        process.wait(30)
        assert_gone(list(everything))


def test_a_runner_killed_while_the_fork_server_imports_leaves_no_process(tmp_path: Path, meeting: Any, assert_gone: Gone) -> None:
    (tmp_path / "blocks_at_import.py").write_text(
        "import os, socket\n"
        "s = socket.socket(socket.AF_UNIX)\n"
        "s.connect('\\0' + os.environ['FLAME_RUN_TEST_MEETING'])\n"
        's.sendall(f\'["run", "server", {os.getpid()}]\'.encode())\n'
        "s.recv(1)\n"
    )
    program = "import threading; from flame_run.launch.forking import warm; warm(['blocks_at_import']); threading.Event().wait()"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(tmp_path)])}
    with subprocess.Popen([sys.executable, "-c", program], env=environment) as process:
        server = psutil.Process(meeting.until(1)[0])
        process.kill()
        process.wait(30)
        assert_gone([server])


def test_a_runner_that_ends_with_a_warm_fork_server_leaves_no_process_and_no_warning(tmp_path: Path, assert_gone: Gone) -> None:
    program = "from flame_run.launch.forking import SERVERS, warm; warm([]); s = SERVERS.take([]); print(s.pid); SERVERS.put(s)"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-X", "dev", "-c", program],
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
        check=True,
    )
    assert done.stderr == ""
    assert not psutil.pid_exists(int(done.stdout))


def test_ctrl_c_in_the_terminal_does_not_reach_the_workers(tmp_path: Path, meeting: Any) -> None:
    for launcher, choice in INNER.items():
        before = len(meeting.arrived)
        with application(tmp_path, *choice, f"hydra.run.dir={launcher}") as process:
            for pid in meeting.until(before + 3)[before:]:
                assert os.getpgid(pid) != os.getpgid(process.pid)


def test_the_launchers_are_imported_without_torch() -> None:
    program = (
        "import sys, flame_run.launch.local, flame_run.launch.debug, flame_run.launch.sizing, flame_run.launch.workers;"
        "print({'torch', 'lightning', 'mlflow', 'grpc', 'joblib', 'submitit'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=240, check=True)
    assert done.stdout.strip() == "set()"
