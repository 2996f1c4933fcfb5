"""The live records of a run: `tasks.jsonl` and `metrics.jsonl`, one JSON object per line.

A line is written by one `write` of the operating system, so that a reader never sees half of it, except after a crash
or a full disk at the very end of the file; readers leave such an end out. Numbers that JSON cannot say are the
strings `NaN`, `Infinity` and `-Infinity`, which Python's `float` reads (as in protobuf's JSON mapping).
"""

import fcntl
import json
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from types import TracebackType
from typing import Any, Self


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskRecord:
    """A line of `tasks.jsonl`: a worker changed its state, or entered a round."""

    time: float
    """Seconds since the epoch."""
    job_id: str
    task_id: str
    worker: str
    role: str
    type: str
    """`system`: started by the runner; `user`: joined by itself."""
    state: str
    """`ready`, `starting`, `running`, `restarting`, `completed`, `failed` or `terminated`."""
    round: int | None
    """From 1; None before the first."""
    pid: int | None
    """The worker's own process; None before it starts."""
    host: str | None
    error: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricRecord:
    """A line of `metrics.jsonl`: one value."""

    round: int | None
    worker: str
    name: str
    value: float
    time: float
    """Seconds since the epoch."""


class JsonLines:
    """Appends records to a file of JSON lines; opens it at once and cuts off a torn last line.

    Args:
        path: the file; created if it is not there.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._handle = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        with _locked(self._handle):
            _cut_torn_line(self._handle)

    def append(self, record: TaskRecord | MetricRecord | Mapping[str, Any]) -> None:
        """Write one line.

        Raises:
            OSError: the line could not be written whole (the disk is full).
        """
        value = record if isinstance(record, Mapping) else asdict(record)
        data = (dumps(value) + "\n").encode()
        with _locked(self._handle):
            written = os.write(self._handle, data)
        if written != len(data):
            raise OSError(f"only {written} of {len(data)} bytes could be written to {self.path}")

    def close(self) -> None:
        """Close the file. Idempotent."""
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def dumps(value: object, indent: int | None = None) -> str:
    """Write `value` as JSON that every parser reads; see the module for NaN and infinity."""
    return json.dumps(_plain(value), ensure_ascii=False, allow_nan=False, indent=indent)


def read_records(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the objects of a file of JSON lines, in order; a torn last line is left out.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a whole line is not a JSON object.
    """
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n"):
                return
            try:
                value = json.loads(line)
            except ValueError as error:
                raise ValueError(f"{path}, line {number}: {error}") from error
            if not isinstance(value, dict):
                raise ValueError(f"{path}, line {number}: not a JSON object")  # noqa: TRY004 - the content is wrong, no type is
            yield value


def read_tasks(path: Path) -> Iterator[TaskRecord]:
    """Yield the records of a `tasks.jsonl`; see `read_records`. Keys that this version does not know are left out."""
    for value in read_records(path):
        known: dict[str, Any] = {field.name: value.get(field.name) for field in fields(TaskRecord)}
        yield TaskRecord(**known)


def read_metrics(path: Path) -> Iterator[MetricRecord]:
    """Yield the records of a `metrics.jsonl`; see `read_records`."""
    for value in read_records(path):
        yield MetricRecord(
            round=value["round"], worker=value["worker"], name=value["name"], value=float(value["value"]), time=value["time"]
        )


def latest_tasks(path: Path) -> list[TaskRecord]:
    """Return the last record of each worker, in the order in which the workers first appear."""
    latest: dict[str, TaskRecord] = {}
    for record in read_tasks(path):
        latest[record.worker] = record
    return list(latest.values())


def _plain(value: object) -> object:
    match value:
        case float():
            return value if math.isfinite(value) else ("NaN" if math.isnan(value) else ("Infinity" if value > 0 else "-Infinity"))
        case Mapping():
            return {str(key): _plain(item) for key, item in value.items()}
        case list() | tuple():
            return [_plain(item) for item in value]
        case _:
            return value


@contextmanager
def _locked(handle: int) -> Iterator[None]:
    """Keep other processes from writing meanwhile: a line that grows looks torn to who has just opened the file."""
    fcntl.lockf(handle, fcntl.LOCK_EX)
    try:
        yield
    finally:
        fcntl.lockf(handle, fcntl.LOCK_UN)


def _cut_torn_line(handle: int, block: int = 65536) -> None:
    end = size = os.fstat(handle).st_size
    while end > 0:
        begin = max(0, end - block)
        newline = os.pread(handle, end - begin, begin).rfind(b"\n")
        if newline >= 0:
            end = begin + newline + 1
            break
        end = begin
    if end != size:
        os.ftruncate(handle, end)
