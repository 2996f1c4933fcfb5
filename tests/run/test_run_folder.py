"""The run folder: its paths, its claim, its end."""

import os
import subprocess
import sys

import pytest

from flame_run.errors import InvalidConfig
from flame_run.run.folder import RunFolder, write_atomically


def test_the_paths_of_the_contract(tmp_path):
    folder = RunFolder(tmp_path)
    names = [
        folder.plan,
        folder.tasks,
        folder.metrics,
        folder.summary,
        folder.checkpoints,
        folder.worker_log("trainer-0"),
        folder.hydra,
    ]
    assert [str(path.relative_to(tmp_path)) for path in names] == [
        "plan.json", "tasks.jsonl", "metrics.jsonl", "summary.json", "checkpoints", "workers/trainer-0/worker.log", ".hydra"
    ]  # fmt: skip


def test_a_relative_path_is_made_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert RunFolder("runs/a").path == tmp_path / "runs" / "a"


def test_a_folder_that_hydra_has_begun_can_be_claimed_once(tmp_path):
    (tmp_path / "run" / ".hydra").mkdir(parents=True)
    RunFolder(tmp_path / "run").create()
    with pytest.raises(InvalidConfig) as refusal:
        RunFolder(tmp_path / "run").create()
    (problem,) = refusal.value.problems
    assert (problem.place, problem.reason) == ("hydra.run.dir", "this folder holds a run already")


def test_of_many_runs_at_once_exactly_one_gets_the_folder(tmp_path):
    script = (
        "import sys\nfrom flame_run.errors import InvalidConfig\nfrom flame_run.run.folder import RunFolder\n"
        "sys.stdin.readline()\ntry: RunFolder(sys.argv[1]).create()\nexcept InvalidConfig: sys.exit(2)"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "run")]
    processes = [subprocess.Popen(command, stdin=subprocess.PIPE, text=True) for _ in range(4)]
    for process in processes:
        process.communicate("\n", timeout=60)
    assert sorted(process.returncode for process in processes) == [0, 2, 2, 2]


def test_a_file_where_the_folder_should_be_is_a_problem(tmp_path):
    (tmp_path / "run").write_text("")
    with pytest.raises(InvalidConfig, match="there is a file of this name"):
        RunFolder(tmp_path / "run").create()


def test_a_folder_below_a_file_is_a_problem(tmp_path):
    (tmp_path / "run").write_text("")
    with pytest.raises(InvalidConfig, match="cannot be made"):
        RunFolder(tmp_path / "run" / "inner").create()


def test_the_runner_is_found_while_it_lives(tmp_path):
    folder = RunFolder(tmp_path)
    assert folder.read_runner() is None
    folder.write_runner()
    runner = folder.read_runner()
    assert runner is not None
    process = runner.process()
    assert process is not None
    assert process.pid == os.getpid()


def test_a_later_process_of_the_same_id_is_not_the_runner(tmp_path):
    folder = RunFolder(tmp_path)
    folder.runner.write_text(f'{{"pid": {os.getpid()}, "create_time": 5.0, "host": "here"}}')
    runner = folder.read_runner()
    assert runner is not None
    assert runner.process() is None


def test_the_end_of_a_log_is_read_from_its_end(tmp_path):
    folder = RunFolder(tmp_path)
    assert folder.log_tail("trainer-0") == []
    folder.worker("trainer-0").mkdir(parents=True)
    folder.worker_log("trainer-0").write_bytes(b"\xff" * 100_000 + b"\n" + b"".join(b"line %d\n" % index for index in range(100)))
    assert folder.log_tail("trainer-0", lines=2) == ["line 98", "line 99"]


def test_the_sweep_removes_only_what_a_running_job_needs(tmp_path):
    folder = RunFolder(tmp_path)
    folder.create()
    folder.write_runner()
    folder.rendezvous.write_text("secret")
    (folder.checkpoints / "last.pt.tmp").write_text("half")
    (folder.checkpoints / "last.pt").write_text("whole")
    folder.sweep()
    folder.sweep()
    left = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file())
    assert left == ["checkpoints/last.pt", "tasks.jsonl"]


def test_a_failed_atomic_write_leaves_the_old_content_and_no_draft(tmp_path):
    path = tmp_path / "summary.json"
    write_atomically(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_atomically(path, "\ud800")
    assert path.read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["summary.json"]
