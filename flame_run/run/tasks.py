"""The verbs `tasks` and `stop`: look at a run, end a run."""

import os
import select
import socket
import sys
from collections.abc import Sequence
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import TextIO

import psutil

from flame_run.run.folder import RunFolder
from flame_run.run.records import TaskRecord, latest_tasks

COLUMNS = ("job id", "task id", "type", "state", "timestamp", "round", "worker")


def task_table(rows: Sequence[TaskRecord], *, short: bool = False) -> str:
    """Lay out the task table as text, a line per task; `short` cuts job and task ids to 10 digits."""
    cells = [COLUMNS, *(_cells(row, short=short) for row in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(COLUMNS))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in cells)


def print_tasks(run_dir: str | Path, out: TextIO | None = None, err: TextIO | None = None) -> int:
    """Print the task table of a run, going on or over, and how the run stands.

    Returns:
        The exit status: 0, or 2 where `run_dir` is no run folder.
    """
    out, err = out or sys.stdout, err or sys.stderr
    folder = RunFolder(run_dir)
    if (problem := _no_run(folder)) is not None:
        print(problem, file=err)
        return 2
    print(task_table(latest_tasks(folder.tasks)), file=out)
    print(_standing(folder), file=out)
    return 0


def stop(run_dir: str | Path, *, timeout: float = 60.0, out: TextIO | None = None, err: TextIO | None = None) -> int:
    """Ask the runner of `run_dir` to end its job, and wait until it has; `timeout` in seconds.

    Returns:
        The exit status: 0 if the run is over now (or was before), 1 if it could not be ended, 2 where there is no run.
    """
    out, err = out or sys.stdout, err or sys.stderr
    folder = RunFolder(run_dir)
    if (problem := _no_run(folder)) is not None:
        print(problem, file=err)
        return 2
    runner = folder.read_runner()
    if runner is not None and runner.host != socket.gethostname():
        print(f"the runner of {folder.path} is process {runner.pid} on {runner.host}: stop it from there", file=err)
        return 1
    process = None if runner is None else runner.process()
    if process is None:
        print(f"nothing to stop in {folder.path}: {_standing(folder)}", file=out)
        return 0
    return _end(process, folder, timeout, out, err)


def _end(process: psutil.Process, folder: RunFolder, timeout: float, out: TextIO, err: TextIO) -> int:
    try:
        # A descriptor of the process tells of its end also where its parent has not asked for its status yet.
        descriptor = os.pidfd_open(process.pid)
        with closing(os.fdopen(descriptor, "rb", buffering=0, closefd=True)):
            process.terminate()
            ended, _, _ = select.select([descriptor], [], [], timeout)
    except (ProcessLookupError, psutil.NoSuchProcess):
        ended = [process.pid]
    except psutil.AccessDenied:
        print(f"the runner of {folder.path}, process {process.pid}, belongs to somebody else", file=err)
        return 1
    if not ended:
        print(f"waited {timeout:g} s for the runner of {folder.path}, process {process.pid}, to end", file=err)
        return 1
    print(f"stopped {folder.path}: {_standing(folder)}", file=out)
    return 0


def _no_run(folder: RunFolder) -> str | None:
    if not folder.path.is_dir():
        return f"there is no folder {folder.path}"
    if not folder.tasks.is_file():
        return f"{folder.path} is no run folder: it has no {folder.tasks.name}"
    return None


def _standing(folder: RunFolder) -> str:
    runner = folder.read_runner()
    if runner is not None:
        if runner.host != socket.gethostname():
            return f"the run is going on, as far as its folder tells (process {runner.pid} on {runner.host})"
        if runner.process() is not None:
            return f"the run is going on (process {runner.pid})"
        folder.sweep()  # its runner was killed and could not do so
    summary = folder.read_summary()
    if summary is not None:
        return f"the run is over: {summary.get('status')}"
    return "the run is over: its runner ended without a summary"


def _cells(row: TaskRecord, *, short: bool) -> tuple[str, ...]:
    length = 10 if short else None
    moment = datetime.fromtimestamp(row.time, tz=UTC).astimezone().isoformat(sep=" ", timespec="seconds")
    round_ = "-" if row.round is None else str(row.round)
    return (row.job_id[:length], row.task_id[:length], row.type, row.state, moment, round_, row.worker)
