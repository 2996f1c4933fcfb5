"""The runner's side of tracking: starts the tracker's process, wakes it, and hears its result. Never raises for its sake."""

import json
import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, Protocol

from flame_run.track.inbox import WAKE, finish_line
from flame_run.track.settings import LOG_FILE, TrackResult, TrackSettings
from flame_run.track.state import TrackState
from flame_run.track.tracker import track

GRACE = 1.0
"""Seconds that a process gets to end after it was killed or has said everything."""


class Process(Protocol):
    """What the handle needs of the tracker's process; `multiprocessing` processes have it."""

    @property
    def sentinel(self) -> int:
        """A descriptor that becomes readable when the process ends."""

    @property
    def exitcode(self) -> int | None:
        """The exit status, None while it runs."""

    def join(self, timeout: float | None = None) -> None:
        """Wait for its end, `timeout` seconds at most."""

    def kill(self) -> None:
        """Kill it."""


Target = Callable[[TrackSettings, Connection], None]
Spawn = Callable[[Target, TrackSettings, Connection], Process]
"""Runs a module-level function with these arguments in a new process and returns that, started."""


def spawn_process(target: Target, settings: TrackSettings, connection: Connection) -> Process:
    """Run the tracker in a fresh interpreter: slower to start than a forked one, but it needs nothing from the caller."""
    process = multiprocessing.get_context("spawn").Process(target=target, args=(settings, connection), name="tracker", daemon=True)
    with _known_start_method():
        process.start()
    return process


@contextmanager
def _known_start_method() -> Iterator[None]:
    """A spawned process takes over the default start method; one that a library added (loky, of joblib) is unknown to it."""
    default = multiprocessing.get_start_method(allow_none=True)
    if default is None or default in multiprocessing.get_all_start_methods():
        yield
        return
    multiprocessing.set_start_method("spawn", force=True)
    try:
        yield
    finally:
        multiprocessing.set_start_method(default, force=True)


def start_tracker(settings: TrackSettings, spawn: Spawn = spawn_process) -> "Tracker":
    """Start to track a run folder, in the runs of an earlier tracking of the same folder where there was one.

    Returns at once; the process starts in the background.
    """
    TrackState.begin(settings)
    return Tracker(settings, spawn)


class Tracker:
    """The tracker of one job. Its death is a warning in the result, never an error."""

    def __init__(self, settings: TrackSettings, spawn: Spawn = spawn_process) -> None:
        self._settings = settings
        self._connection, theirs = multiprocessing.Pipe()
        os.set_blocking(self._connection.fileno(), False)
        self._process: Process | None = None
        self._received = b""
        self._ended = False
        self._phase = "its process to start"
        self._failure: str | None = None
        self._starter = threading.Thread(target=self._start, args=(spawn, theirs), name="tracker-start", daemon=True)
        self._starter.start()

    def wake(self) -> None:
        """Say that the run folder has something new. Never waits; wakes that the tracker has not heard yet count as one."""
        self._send(WAKE)

    def finish(self, timeout: float | None = None) -> TrackResult:
        """Say that the job is over and wait for the result, `timeout` seconds at most (default: that of the settings).

        `summary.json` and the checkpoints must stand in the run folder. What was not delivered by then is counted in the
        result and delivered by `flame_run.track.sync` later.
        """
        limit = self._settings.timeout if timeout is None else timeout
        deadline = time.monotonic() + limit
        self._starter.join(limit)
        # The tracker stops by itself a little earlier, so that its own account of what is left arrives.
        self._send(finish_line(max(0.8 * limit, limit - GRACE)))
        values = self._await_result(deadline)
        result = self._own_account(limit) if values is None else TrackResult.from_mapping(values)
        self.terminate()
        return result

    def give_up(self) -> None:
        """Let a `finish` that is waiting return with what was delivered. Safe in a signal handler."""
        if self._process is not None:
            self._process.kill()

    def terminate(self) -> None:
        """End the tracker at once; what it has not delivered stays for `flame_run.track.sync`."""
        if self._connection.closed:
            return
        # Without a runner at the other end the process ends by itself, even one that has not started yet.
        self._connection.close()
        if self._process is not None:
            self._process.kill()
            self._process.join(GRACE)

    def _start(self, spawn: Spawn, theirs: Connection) -> None:
        try:
            self._process = spawn(track, self._settings, theirs)
            self._phase = "the tracker to answer"
        except Exception as error:  # noqa: BLE001 - whatever keeps it from starting is a warning of the result
            self._failure = f"the tracker could not be started: {type(error).__name__}: {error}"
        finally:
            theirs.close()

    def _send(self, line: bytes) -> None:
        # A full pipe means that the tracker has wakes to read; a broken one that it is dead, which the result tells.
        with suppress(OSError):
            os.write(self._connection.fileno(), line)

    def _await_result(self, deadline: float) -> Mapping[str, Any] | None:
        """Return the result that the tracker reports, None if it dies or the time is over before."""
        process = self._process
        while process is not None:
            ready = wait([self._connection, process.sentinel], max(0.0, deadline - time.monotonic()))
            result = self._read()
            if result is not None:
                return result
            if process.sentinel in ready or self._ended:
                process.join(GRACE)
                status = process.exitcode
                self._failure = (
                    f"the tracker ended with exit status {status}: it was at {self._phase} (see {LOG_FILE} in the run folder)"
                )
                return None
            if not ready:
                return None
        return None

    def _read(self) -> Mapping[str, Any] | None:
        """Take what the tracker has said so far; return the result if that is among it."""
        with suppress(BlockingIOError, ConnectionError):
            while data := os.read(self._connection.fileno(), 65536):
                self._received += data
            self._ended = True
        *lines, self._received = self._received.split(b"\n")
        for values in map(json.loads, lines):
            self._phase = values.get("at", self._phase)
            if "result" in values:
                result: Mapping[str, Any] = values["result"]
                return result
        return None

    def _own_account(self, limit: float) -> TrackResult:
        """Return what the run folder tells about a tracker that said nothing."""
        failure = self._failure or f"tracking did not end within {limit:g} s: waited for {self._phase}"
        state = TrackState.load(Path(self._settings.run_dir))
        return TrackResult(
            run_id=state.run_id,
            experiment_id=state.experiment_id,
            ui_command=self._settings.ui_command,
            warnings=(failure,),
            unsent=state.unsent,
            models=state.models,
        )
