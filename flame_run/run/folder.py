"""The run folder: the one object that knows every path in it."""

import fcntl
import json
import os
import secrets
import shutil
import socket
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from flame_run.errors import InvalidConfig, Problem
from flame_run.run.records import dumps


@dataclass(frozen=True, slots=True)
class Runner:
    """The process that runs the job; `create_time` (seconds since the epoch) tells it from a later one of the same id."""

    pid: int
    create_time: float
    host: str

    def process(self) -> psutil.Process | None:
        """Return the runner's process on this machine, None if it has ended."""
        try:
            process = psutil.Process(self.pid)
            same = abs(process.create_time() - self.create_time) < 1.0 and process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return None
        return process if same else None


class RunFolder:
    """Paths of a run.

    Args:
        path: the folder; it need not be there yet.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).absolute()
        self.plan = self.path / "plan.json"
        self.tasks = self.path / "tasks.jsonl"
        self.metrics = self.path / "metrics.jsonl"
        self.summary = self.path / "summary.json"
        self.checkpoints = self.path / "checkpoints"
        self.workers = self.path / "workers"
        self.rendezvous = self.path / ".rendezvous"
        self.security = self.path / ".security"
        self.bundles = self.path / "bundles"
        self.runner = self.path / "runner.json"
        self.tracking = self.path / ".tracking.json"
        self.hydra = self.path / ".hydra"
        self.config = self.hydra / "config.yaml"

    def worker(self, name: str) -> Path:
        """Return the folder of one worker."""
        return self.workers / name

    def state(self, name: str) -> Path:
        """Return the folder of what a worker remembers from round to round."""
        return self.worker(name) / "state"

    def worker_log(self, name: str) -> Path:
        """Return the log of one worker."""
        return self.worker(name) / "worker.log"

    def models(self, root: str | None = None) -> Path:
        """Return the folder of the models of a root; with a single root (None) the folder of all models."""
        return self.checkpoints if root is None else self.checkpoints / root

    def create(self) -> None:
        """Make the folder and claim it for a new run, so that of two runs at once only one gets it.

        Raises:
            InvalidConfig: it holds a run already, or cannot be made.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            os.close(os.open(self.tasks, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644))
            self.checkpoints.mkdir(exist_ok=True)
            self.workers.mkdir(exist_ok=True)
        except FileExistsError:
            reason = "this folder holds a run already" if self.tasks.exists() else "there is a file of this name"
            raise InvalidConfig([Problem("hydra.run.dir", str(self.path), reason, "a folder that is new or empty")]) from None
        except OSError as error:
            reason = f"the folder cannot be made: {error.strerror}"
            raise InvalidConfig([Problem("hydra.run.dir", str(self.path), reason, "a folder that can be written")]) from error

    def reclaim(self) -> None:
        """Claim the folder of a run that is over, to go on with it; of two that try only one gets it.

        Raises:
            InvalidConfig: the run is going on, or somebody else is about to go on with it.
        """
        with self.tasks.open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise self._going_on("another process is about to go on with it") from None
            runner = self.read_runner()
            if runner is not None and runner.host != socket.gethostname():
                reason = f"the run is going on, as far as its folder tells (process {runner.pid} on {runner.host})"
                raise self._going_on(f"{reason}; if that process is gone, remove {self.runner.name}")
            if runner is not None and runner.process() is not None:
                raise self._going_on(f"the run is going on (process {runner.pid})")
            self.sweep()
            self.write_runner()

    def _going_on(self, reason: str) -> InvalidConfig:
        return InvalidConfig([Problem("flame-run resume", str(self.path), reason, "the folder of a run that is over")])

    def write_runner(self) -> None:
        """Note this process as the one that runs the job."""
        process = psutil.Process()
        record = {"pid": process.pid, "create_time": process.create_time(), "host": socket.gethostname()}
        write_atomically(self.runner, dumps(record))

    def read_runner(self) -> Runner | None:
        """Who runs the job; None if nobody does, or the note cannot be read."""
        try:
            value = json.loads(self.runner.read_text(encoding="utf-8"))
            return Runner(int(value["pid"]), float(value["create_time"]), str(value["host"]))
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def read_summary(self) -> Mapping[str, Any] | None:
        """Read the summary; None before the end of the run."""
        try:
            value = json.loads(self.summary.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return value if isinstance(value, dict) else None

    def log_tail(self, worker: str, lines: int = 15, block: int = 64 * 1024) -> list[str]:
        """Return the last lines of a worker's log, none if it has no log; reads at most `block` bytes."""
        try:
            with self.worker_log(worker).open("rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - block))
                return list(deque(file.read().decode(errors="replace").splitlines(), maxlen=lines))
        except OSError:
            return []

    def sweep(self) -> None:
        """Remove what only a running job needs: rendezvous, bundles, runner note, drafts (`*.tmp`)."""
        self.rendezvous.unlink(missing_ok=True)
        if self.bundles.exists():
            shutil.rmtree(self.bundles)
        self.runner.unlink(missing_ok=True)
        for draft in self.path.rglob("*.tmp"):
            if not draft.is_dir():
                draft.unlink(missing_ok=True)


def write_atomically(path: Path, text: str) -> None:
    """Replace `path` by `text` (UTF-8), so that a reader sees the old or the new content, and a crash loses neither."""
    draft = path.with_name(f"{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        with draft.open("x", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
