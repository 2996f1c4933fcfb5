"""The verbs `tasks` and `stop`, on runs that go on, are over, were killed, or are none."""

import io
import json
import os
import socket
import subprocess
import sys
from contextlib import ExitStack

import pytest

from flame_run.run.folder import RunFolder
from flame_run.run.records import JsonLines
from flame_run.run.tasks import print_tasks, stop, task_table

RUNNER = """
import signal, sys
from flame_run.run.folder import RunFolder
folder = RunFolder(sys.argv[1])
folder.write_runner()
def asked(*_):
    print("asked", flush=True)
    if sys.argv[2] == "obedient":
        sys.exit()
signal.signal(signal.SIGTERM, asked)
print("up", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def folder(tmp_path, record):
    """A run folder with two tasks."""
    run = RunFolder(tmp_path / "run")
    run.create()
    with JsonLines(run.tasks) as file:
        for worker, state, round_ in (("aggregator-0", "ready", None), ("trainer-0", "running", 1), ("aggregator-0", "running", 2)):
            file.append(record(worker=worker, state=state, round=round_))
    return run


@pytest.fixture
def runner(folder):
    """Starts a process that is the runner of the folder."""
    with ExitStack() as stack:

        def start(kind="obedient"):
            process = subprocess.Popen(
                [sys.executable, "-c", RUNNER, str(folder.path), kind], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
            stack.enter_context(process)
            stack.callback(process.kill)
            assert process.stdout is not None
            assert process.stdout.readline() == "up\n"
            return process

        yield start


def call(verb, path, **options):
    out, err = io.StringIO(), io.StringIO()
    return verb(path, out=out, err=err, **options), out.getvalue(), err.getvalue()


def test_the_table_shows_the_latest_state_of_each_task_in_full(folder):
    status, out, _ = call(print_tasks, folder.path)
    lines = out.splitlines()
    assert status == 0
    assert lines[0].split("  ")[0] == "job id"
    assert [line.split()[:4] for line in lines[1:3]] == [["a" * 24, "b" * 40, "system", "running"]] * 2
    assert [line.split()[-2:] for line in lines[1:3]] == [["2", "aggregator-0"], ["1", "trainer-0"]]


def test_the_table_can_be_short(record):
    assert "a" * 11 not in task_table([record()], short=True)


def test_a_run_that_goes_on_is_said_to(folder, runner):
    process = runner()
    assert call(print_tasks, str(folder.path))[1].splitlines()[-1] == f"the run is going on (process {process.pid})"


def test_a_run_that_is_over_is_said_to(folder):
    folder.summary.write_text('{"status": "completed"}')
    assert call(print_tasks, folder.path)[1].splitlines()[-1] == "the run is over: completed"


def test_a_run_whose_runner_was_killed_is_said_to(folder, runner):
    process = runner()
    process.kill()
    process.wait(10)
    assert call(print_tasks, folder.path)[1].splitlines()[-1] == "the run is over: its runner ended without a summary"


@pytest.mark.parametrize("verb", [print_tasks, stop])
def test_what_is_no_run_folder_is_an_error_of_status_2(verb, tmp_path):
    status, out, err = call(verb, tmp_path / "nowhere")
    assert (status, out) == (2, "")
    assert "there is no folder" in err
    status, out, err = call(verb, tmp_path)
    assert (status, out) == (2, "")
    assert "is no run folder" in err


def test_stop_ends_the_runner_by_sigterm_and_waits_for_its_end(folder, runner):
    process = runner()
    status, out, _ = call(stop, folder.path)
    assert status == 0
    assert out.startswith(f"stopped {folder.path}")
    assert process.poll() is not None
    assert process.stdout.read() == "asked\n"


def test_a_runner_that_does_not_end_is_named_after_the_timeout(folder, runner):
    process = runner("stubborn")
    status, _, err = call(stop, folder.path, timeout=0.2)
    assert status == 1
    assert f"process {process.pid}, to end" in err


def test_stopping_a_run_that_is_over_says_so(folder):
    folder.summary.write_text('{"status": "failed"}')
    status, out, _ = call(stop, folder.path)
    assert status == 0
    assert "nothing to stop" in out
    assert "failed" in out


def test_a_process_that_only_has_the_runners_id_is_left_alone(folder):
    folder.runner.write_text(json.dumps({"pid": os.getpid(), "create_time": 1.0, "host": socket.gethostname()}))
    status, out, _ = call(stop, folder.path)
    assert status == 0
    assert "nothing to stop" in out


def test_a_run_on_another_machine_is_not_stopped_from_here(folder):
    folder.runner.write_text(json.dumps({"pid": os.getpid(), "create_time": 1.0, "host": "elsewhere"}))
    status, _, err = call(stop, folder.path)
    assert status == 1
    assert "elsewhere: stop it from there" in err
