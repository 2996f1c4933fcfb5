"""The messages between a runner and its tracker: short lines over a private socket pair, JSON where there is more to say."""

import json
import os
import threading
import time
from collections.abc import Mapping
from multiprocessing.connection import Connection
from typing import Any

WAKE = b"wake\n"


def finish_line(seconds: float) -> bytes:
    """Return the line by which the runner says that the job is over, and how long the tracker has."""
    return f"finish {seconds:.3f}\n".encode()


def report(connection: Connection, **values: Mapping[str, Any] | str) -> None:
    """Send one JSON line to the runner."""
    line = json.dumps(values).encode() + b"\n"
    while line:
        line = line[os.write(connection.fileno(), line) :]


class Inbox:
    """What the runner said: any number of wakes count as one, and an end.

    A thread reads the connection. When the runner is gone the process ends at once, whatever it is doing: everything that was
    not delivered stands in the run folder.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._changed = threading.Condition()
        self._awake = False
        self._deadline: float | None = None
        threading.Thread(target=self._read, name="tracker-inbox", daemon=True).start()

    @property
    def deadline(self) -> float | None:
        """Time (monotonic seconds) by which everything must be done, None while the job goes on."""
        with self._changed:
            return self._deadline

    def wait(self, back_off: float | None = None) -> None:
        """Wait for a wake or the end of the job; with `back_off`, for those seconds or the end of the job.

        Without it the wait has an end as well: the runner wakes, finishes, or is gone.
        """
        with self._changed:
            if back_off is None:
                self._changed.wait_for(lambda: self._awake or self._deadline is not None)
            else:
                self._changed.wait_for(lambda: self._deadline is not None, back_off)
            self._awake = False

    def pause(self, seconds: float) -> None:
        """Wait that long after the end of the job, between two tries."""
        with self._changed:
            self._changed.wait(seconds)

    def _read(self) -> None:
        rest = b""
        while data := self._receive():
            *lines, rest = (rest + data).split(b"\n")
            with self._changed:
                for line in lines:
                    word, _, seconds = line.decode().partition(" ")
                    if word == "finish":
                        self._deadline = time.monotonic() + float(seconds)
                self._awake = True
                self._changed.notify_all()
        os._exit(1)

    def _receive(self) -> bytes:
        try:
            return os.read(self._connection.fileno(), 4096)
        except ConnectionError:
            return b""
