"""Where a run goes on, and how its folder is brought back to there."""

import json
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from flame_run.errors import InvalidConfig
from flame_run.run.folder import RunFolder
from flame_run.run.past import await_workers_gone, seconds_so_far
from flame_run.run.rewind import drop_later_metrics, rewind, stand, together
from flame_run.topology.plan import Channel, Plan, Worker
from roles import seals

BOTH = ("aggregator-a", "aggregator-b", "trainer-a", "trainer-b")


def plan(*groups: str) -> Plan:
    """An aggregator and a trainer in each group."""
    workers = [
        Worker(name=f"{role}-{group}", task_id=f"{role}{group}", role=role, index=0, groups={"param": group}, realm="default")
        for role in ("aggregator", "trainer")
        for group in groups
    ]
    channel = Channel(
        name="param",
        pair=("trainer", "aggregator"),
        backend="auto",
        groups={group: {role: (f"{role}-{group}",) for role in ("aggregator", "trainer")} for group in groups},
        func_tags={"aggregator": ("distribute", "aggregate"), "trainer": ("fetch", "upload")},
    )
    return Plan(job_id="1", job_name="job", schema_name="s", workers=tuple(workers), channels=(channel,), code={}, evaluation=None)


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    made = RunFolder(tmp_path / "run")
    made.create()
    return made


def checkpoints(folder: Path, *rounds: int, torn: Iterable[int] = ()) -> None:
    folder.mkdir(exist_ok=True)
    for round in rounds:
        path = seals.round_file(folder, round)
        path.write_bytes(b"content")
        if round not in torn:
            seals.seal(path)


def metrics(folder: RunFolder, *records: tuple[str, int | None]) -> None:
    with folder.metrics.open("a") as file:
        for worker, round in records:
            file.write(json.dumps({"round": round, "worker": worker, "name": "loss", "value": 1.0, "time": 1.0}) + "\n")


def tasks(folder: RunFolder, *records: dict[str, Any]) -> None:
    empty = {"job_id": "1", "task_id": "t", "role": "r", "type": "system", "pid": None, "host": None, "error": None, "round": None}
    with folder.tasks.open("a") as file:
        for record in records:
            file.write(json.dumps({**empty, "time": 0.0, "state": "running", **record}) + "\n")


def test_workers_that_no_channel_connects_are_apart() -> None:
    assert together(plan("a", "b")) == [frozenset({"aggregator-a", "trainer-a"}), frozenset({"aggregator-b", "trainer-b"})]


def test_each_root_goes_on_from_its_own_newest_whole_checkpoint(folder: RunFolder) -> None:
    checkpoints(folder.models("aggregator-a"), 8, 9)
    checkpoints(folder.models("aggregator-b"), 2, 3, torn=[3])
    tasks(folder, {"worker": "trainer-a", "round": 9})
    resumed = stand(plan("a", "b"), folder, BOTH)
    assert resumed.rounds == {"aggregator-a": 9, "trainer-a": 9, "aggregator-b": 2, "trainer-b": 2}
    assert resumed.workers == {"aggregator-a", "aggregator-b", "trainer-a"}
    assert resumed.done == 9
    assert "round-00003.pt (its end is missing)" in resumed.notes[1]


def test_without_a_checkpoint_everybody_starts_anew(folder: RunFolder) -> None:
    tasks(folder, {"worker": "trainer-a", "round": 1})
    resumed = stand(plan("a"), folder, BOTH)
    assert resumed.rounds == {"aggregator-a": 0, "trainer-a": 0}
    assert resumed.workers == {"aggregator-a"}
    assert resumed.notes == ("there is no checkpoint: starting from round 1",)


def test_where_a_root_of_another_site_stands_is_known_from_its_reports(folder: RunFolder) -> None:
    record = {"worker": "aggregator-a", "name": "checkpoint_seconds", "value": 0.1, "time": 1.0}
    folder.metrics.write_text("".join(json.dumps({**record, "round": round}) + "\n" for round in (1, 2, 3)))
    assert stand(plan("a"), folder, here=("trainer-a",)).done == 3


def test_rewinding_takes_out_what_will_be_done_again(folder: RunFolder) -> None:
    checkpoints(folder.models("aggregator-a"), 2, 3)
    checkpoints(folder.models("aggregator-b"), 5, 6, 7, torn=[7])
    metrics(
        folder, *((worker, round) for round in (1, 2, 3, 4, 6, 7) for worker in ("trainer-a", "trainer-b")), ("trainer-a", None)
    )
    with folder.metrics.open("a") as file:
        file.write('{"round": 1, "wor')
    folder.summary.write_text("{}")
    both = plan("a", "b")
    rewind(both, folder, stand(both, folder, BOTH))
    left = [json.loads(line) for line in folder.metrics.read_text().splitlines()]
    assert [record["round"] for record in left if record["worker"] == "trainer-a"] == [1, 2, 3, None]
    assert [record["round"] for record in left if record["worker"] == "trainer-b"] == [1, 2, 3, 4, 6]
    assert list(seals.round_files(folder.models("aggregator-b"))) == [5, 6]
    assert not folder.summary.exists()
    assert not list(folder.path.rglob("*.tmp"))


def test_rewinding_twice_changes_nothing_more(folder: RunFolder) -> None:
    metrics(folder, *(("trainer-a", round) for round in (1, 2, 3)))
    for _ in range(2):
        drop_later_metrics(folder, {"trainer-a": 2})
        assert folder.metrics.read_text().count("\n") == 2


def test_the_time_between_two_parts_of_a_run_does_not_count(folder: RunFolder) -> None:
    for begin, end in ((100.0, 110.0), (5000.0, 5003.0)):
        tasks(folder, *({"worker": worker, "state": "ready", "time": begin} for worker in "ab"))
        tasks(folder, *({"worker": worker, "round": 1, "time": end} for worker in "ab"))
    assert seconds_so_far(folder) == pytest.approx(13.0)


def test_a_worker_that_outlives_its_runner_is_waited_for_and_named(folder: RunFolder) -> None:
    process = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)
    try:
        tasks(
            folder,
            {"worker": "trainer-a", "pid": process.pid, "time": 4e9},
            {"worker": "trainer-b", "pid": os.getpid(), "time": 4e9},
        )
        with pytest.raises(InvalidConfig, match=rf"trainer-a \(process {process.pid}\) of the run to end"):
            await_workers_gone(folder, timeout=0.05)
    finally:
        process.communicate(b"")
    await_workers_gone(folder, timeout=0.05)


def test_a_later_process_of_the_same_id_is_no_worker(folder: RunFolder) -> None:
    process = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)
    try:
        tasks(folder, {"worker": "trainer-a", "pid": process.pid, "time": 1000.0})
        await_workers_gone(folder, timeout=0.05)
    finally:
        process.communicate(b"")


def test_of_two_that_go_on_with_a_run_only_one_gets_it(folder: RunFolder) -> None:
    script = (
        "import sys\nfrom flame_run.errors import InvalidConfig\nfrom flame_run.run.folder import RunFolder\n"
        "sys.stdin.readline()\ntry: RunFolder(sys.argv[1]).reclaim()\nexcept InvalidConfig as error: sys.exit(2)\n"
        "print('mine', flush=True)\nsys.stdin.read()"
    )
    command = [sys.executable, "-c", script, str(folder.path)]
    processes = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    lines = [process.stdout.readline() for process in processes if process.stdout is not None]
    for process in processes:
        process.communicate("")
    assert sorted(lines) == ["", "", "mine\n"]
    folder.reclaim()


def test_a_run_of_another_machine_is_taken_as_going_on(folder: RunFolder) -> None:
    folder.runner.write_text('{"pid": 1, "create_time": 5.0, "host": "elsewhere"}')
    with pytest.raises(InvalidConfig, match=r"going on, as far as its folder tells \(process 1 on elsewhere\).*remove runner.json"):
        folder.reclaim()
