"""The files of JSON lines."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flame_run.run.records import JsonLines, MetricRecord, dumps, latest_tasks, read_metrics, read_records, read_tasks


def test_a_task_record_has_the_fields_of_the_contract(tmp_path, record):
    with JsonLines(tmp_path / "tasks.jsonl") as file:
        file.append(record())
    assert list(json.loads((tmp_path / "tasks.jsonl").read_text())) == [
        "time", "job_id", "task_id", "worker", "role", "type", "state", "round", "pid", "host", "error"
    ]  # fmt: skip


def test_a_metric_record_has_the_fields_of_the_contract(tmp_path):
    with JsonLines(tmp_path / "metrics.jsonl") as file:
        file.append(MetricRecord(round=1, worker="trainer-0", name="loss", value=0.5, time=1000.25))
    text = (tmp_path / "metrics.jsonl").read_text()
    assert text == '{"round": 1, "worker": "trainer-0", "name": "loss", "value": 0.5, "time": 1000.25}\n'


def test_a_record_can_be_read_as_soon_as_it_was_appended(tmp_path, record):
    path = tmp_path / "tasks.jsonl"
    with JsonLines(path) as file:
        for round_ in (1, 2, 3):
            file.append(record(round=round_))
            assert [task.round for task in read_tasks(path)] == list(range(1, round_ + 1))


@pytest.mark.parametrize("tail", ['{"worker": "trai', '{"worker": "trainer-0"}'])
def test_readers_leave_out_a_torn_last_line(tmp_path, record, tail):
    path = tmp_path / "tasks.jsonl"
    with JsonLines(path) as file:
        file.append(record())
    with path.open("a") as file:
        file.write(tail)
    assert len(list(read_records(path))) == 1


@pytest.mark.parametrize("whole", [0, 1, 3])
@pytest.mark.parametrize("torn", [0, 5, 200_000])
def test_opening_again_cuts_off_a_torn_last_line_and_appends(tmp_path, whole, torn):
    path = tmp_path / "x.jsonl"
    path.write_text('{"a": 1}\n' * whole + "x" * torn)
    with JsonLines(path) as file:
        file.append({"a": 2})
    assert path.read_text() == '{"a": 1}\n' * whole + '{"a": 2}\n'


def test_a_broken_line_in_the_middle_is_an_error_that_names_it(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text('{"a": 1}\nbroken\n{"a": 1}\n')
    with pytest.raises(ValueError, match=r"x\.jsonl, line 2"):
        list(read_records(path))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 0.1])
def test_every_float_survives_and_the_file_is_strict_json(tmp_path, value):
    path = tmp_path / "metrics.jsonl"
    with JsonLines(path) as file:
        file.append(MetricRecord(round=1, worker="w", name="loss", value=value, time=1.0))
    json.loads(path.read_text(), parse_constant=lambda text: pytest.fail(f"{text} is not JSON"))
    (back,) = read_metrics(path)
    assert back.value == value or (math.isnan(back.value) and math.isnan(value))


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(), lambda inner: st.dictionaries(st.text(), inner)
    )
)
def test_a_line_is_one_line_whatever_it_holds(value):
    assert "\n" not in dumps({"value": value})
    json.loads(dumps({"value": value}), parse_constant=pytest.fail)


def test_the_latest_record_of_each_worker_counts(tmp_path, record):
    path = tmp_path / "tasks.jsonl"
    with JsonLines(path) as file:
        for worker, state in (("b", "ready"), ("a", "ready"), ("b", "running"), ("a", "failed"), ("b", "completed")):
            file.append(record(worker=worker, state=state))
    assert [(task.worker, task.state) for task in latest_tasks(path)] == [("b", "completed"), ("a", "failed")]


def test_lines_of_two_writing_processes_never_mix(tmp_path):
    path = tmp_path / "x.jsonl"
    script = (
        "import sys, pathlib\nfrom flame_run.run.records import JsonLines\n"
        "for _ in range(25):\n"
        "    with JsonLines(pathlib.Path(sys.argv[1])) as file:\n"  # which looks for a torn line while the other writes
        "        for index in range(20): file.append({'who': sys.argv[2], 'text': 'x' * 5000})"
    )
    processes = [subprocess.Popen([sys.executable, "-c", script, str(path), who]) for who in "ab"]
    assert [process.wait(240) for process in processes] == [0, 0]
    assert len(list(read_records(path))) == 1000


def test_a_full_disk_is_an_error():
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    handle = JsonLines.__new__(JsonLines)
    handle._handle = os.open("/dev/full", os.O_WRONLY)
    with pytest.raises(OSError, match="No space left"), handle:
        handle.append({"a": 1})
