"""The reports of a session, in order, each kept until the controller has it."""

import threading
import time
from collections.abc import Iterator
from math import inf

from flame_run.control import wire


class Outbox:
    """Numbers reports and hands them to one stream after another, so that each is taken once whatever breaks in between.

    Safe to call from any thread.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._kept: list[bytes] = []
        """Reports that are not acknowledged."""
        self._acknowledged = 0
        self._handed: int | None = None
        """Number of the last report that the present stream got; None before it may have any."""
        self._stream = 0
        self._beat = self._beat_at = inf

    def beat(self, seconds: float) -> None:
        """Send a heartbeat every `seconds` from now on."""
        with self._changed:
            self._beat, self._beat_at = seconds, time.monotonic() + seconds
            self._changed.notify_all()

    def put(self, report: bytes) -> None:
        """Take a report; it is sent as soon as a stream is there."""
        with self._changed:
            number = self._acknowledged + len(self._kept) + 1
            self._kept.append(wire.numbered(report, number))
            self._changed.notify_all()

    def received(self, number: int) -> None:
        """The controller has the reports up to `number`. The first call for a stream lets it have those that follow.

        Raises:
            ValueError: there is no report of that number.
        """
        with self._changed:
            if not 0 <= number <= self._acknowledged + len(self._kept):
                raise ValueError(f"an acknowledgement of report {number}, which was never sent")
            del self._kept[: max(0, number - self._acknowledged)]
            self._acknowledged = max(self._acknowledged, number)
            if self._handed is None:
                self._handed = self._acknowledged
                self._changed.notify_all()

    def stream(self, hello: bytes) -> Iterator[bytes]:
        """What a new stream sends: `hello`, then heartbeats and, once `received` was called, reports.

        It ends when the next stream begins, or with `end`.
        """
        with self._changed:
            self._stream += 1
            self._handed = None
            mine = self._stream
            self._changed.notify_all()
        return self._feed(hello, mine)

    def end(self) -> None:
        """Let the present stream end."""
        with self._changed:
            self._stream += 1
            self._changed.notify_all()

    def _feed(self, hello: bytes, mine: int) -> Iterator[bytes]:
        yield hello
        while (report := self._next(mine)) is not None:
            yield report

    def _next(self, mine: int) -> bytes | None:
        """The next report of a stream, a heartbeat when it is time for one, None at its end."""
        with self._changed:
            while self._stream == mine:
                now = time.monotonic()
                if now >= self._beat_at:
                    self._beat_at = now + self._beat
                    return wire.heartbeat()
                if (position := self._position) is not None:
                    self._handed = self._acknowledged + position + 1
                    return self._kept[position]
                self._changed.wait(None if self._beat_at == inf else self._beat_at - now)
            return None

    @property
    def _position(self) -> int | None:
        """Where the next report stands in `_kept`; None if there is none, or the stream may not have it yet."""
        if self._handed is None:
            return None
        position = max(self._handed, self._acknowledged) - self._acknowledged
        return position if position < len(self._kept) else None
