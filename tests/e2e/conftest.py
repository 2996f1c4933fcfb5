"""Runs the real command in real processes."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Compute as workers do by default: with more threads the last bits differ."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def _clean(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment without what other tests or a person's shell say about tracking and caches."""
    return {key: value for key, value in environment.items() if not key.startswith(("MLFLOW_", "FLAME_RUN_", "HYDRA_"))}


class Run:
    """A `flame-run` process: its output, its run folder, and every process that it starts."""

    def __init__(self, arguments: Sequence[str], cwd: Path, env: dict[str, str] | None = None) -> None:
        self.cwd = cwd
        self.lines: list[str] = []
        self.process = subprocess.Popen(
            [sys.executable, "-m", "flame_run", *arguments],
            cwd=cwd,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**_clean(os.environ), **(env or {})},
            start_new_session=True,
        )
        self.stderr = ""
        self.family: list[psutil.Process] = []

    def await_line(self, pattern: str) -> str:
        """Read standard output until a line matches; fails at its end."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.rstrip("\n"))
            if re.search(pattern, line):
                self.family = psutil.Process(self.process.pid).children(recursive=True)
                return line
        raise AssertionError(f"no line {pattern!r} in:\n{self.text}\n{self.finish()}")

    def finish(self) -> int:
        """Wait for the end; returns the exit status."""
        out, self.stderr = self.process.communicate(timeout=240)
        self.lines += out.splitlines()
        return self.process.returncode

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the runner alone."""
        self.process.send_signal(number)

    @property
    def text(self) -> str:
        """All of standard output so far."""
        return "\n".join(self.lines)

    @property
    def folder(self) -> Path:
        """The run folder: the last line of standard output."""
        return Path(self.lines[-1])

    def json(self, name: str) -> Any:
        """A JSON file of the run folder."""
        return json.loads((self.folder / name).read_text())

    def records(self, name: str, folder: Path | None = None) -> list[dict[str, Any]]:
        """The lines of a jsonl file of the run folder."""
        return [json.loads(line) for line in ((folder or self.folder) / name).read_text().splitlines()]

    def left_over(self) -> list[psutil.Process]:
        """Processes of the run that outlived it; waits a little for those on their way out."""
        _, alive = psutil.wait_procs(self.family, timeout=60)
        return [process for process in alive if _lives(process)]


def _lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Any]:
    """Start `flame-run` with arguments in a fresh working folder."""
    runs: list[Run] = []

    def begin(*arguments: str, cwd: Path | None = None, env: dict[str, str] | None = None) -> Run:
        run = Run(arguments, cwd or tmp_path, env)
        runs.append(run)
        return run

    yield begin
    for run in runs:
        if run.process.poll() is None:
            run.process.kill()
            run.process.communicate()


@pytest.fixture
def flame_run(start: Any) -> Any:
    """Run `flame-run` to its end."""

    def complete(*arguments: str, cwd: Path | None = None, env: dict[str, str] | None = None) -> Run:
        run: Run = start(*arguments, cwd=cwd, env=env)
        run.finish()
        return run

    return complete
