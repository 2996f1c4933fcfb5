"""What travels through a pipe: frames, one after another, in both directions.

A frame is a header (`HEADER`, little-endian: bytes of the body, number of the session, kind) and its body. Number 0 means
the connection itself; sessions count from 1 in the order in which they register.
"""

import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

SCHEME: Final = "unix:@"
"""Before the name of a socket of Linux's abstract namespace: it is in no folder, and gone with its process."""
HEADER = struct.Struct("<IIB")

HELLO: Final = 0
"""First frame each way, number 0. From a worker process: the job token, UTF-8. From the runner: the heartbeat (`HEARTBEAT`)."""
BEAT: Final = 1
"""Sign of life, number 0, empty; the runner answers each with one."""
MESSAGE: Final = 2
"""A `Report` or an `Order` of one session, see `wire`."""
QUIT: Final = 3
"""To the runner: this session ends without a goodbye; the reason, UTF-8."""
REFUSED: Final = 4
"""From the runner: this session has ended, with number 0 all of them; JSON `{"kind", "reason"}`, see `SessionRefused`."""

HEARTBEAT = struct.Struct("<d")
"""Seconds."""
RECEIVE = 64 * 1024
"""Bytes taken from a socket at once."""
GATHER = 0.02
"""Seconds that a frame which may wait is kept, so that it travels with others."""


class OversizedFrame(ValueError):
    """A frame says that its body is larger than is allowed."""


class Frame(NamedTuple):
    """One frame without its header."""

    kind: int
    number: int
    body: bytes


def frame(kind: int, number: int = 0, body: bytes = b"") -> bytes:
    """Encode a frame."""
    return HEADER.pack(len(body), number, kind) + body


class Incoming:
    """Puts frames together from bytes as they come.

    Args:
        most: largest body, bytes; may be changed later.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self._rest = bytearray()

    def feed(self, data: bytes) -> Iterator[Frame]:
        """Take bytes; gives the frames that are complete now. The iterator has to be used up.

        Raises:
            OversizedFrame: nothing after it can be read.
        """
        self._rest += data
        position, end = 0, len(self._rest)
        while end - position >= HEADER.size:
            size, number, kind = HEADER.unpack_from(self._rest, position)
            if size > self.most:
                raise OversizedFrame(f"a message of {size} bytes (at most {self.most})")
            body = position + HEADER.size
            if end - body < size:
                break
            position = body + size
            yield Frame(kind, number, bytes(self._rest[body:position]))
        del self._rest[:position]


class Outgoing:
    """Frames on their way into a socket that never blocks.

    Safe to call from any thread; all leave in the order in which they came. A frame is sent by whoever has it, as far as
    the socket takes it; the rest, and frames that may wait, are left to the thread that looks after the socket.

    Args:
        connection: a socket that does not block.
        wake: makes that thread look at `congested` and `due`; must not block.
    """

    def __init__(self, connection: socket.socket, wake: Callable[[], None]) -> None:
        self._connection = connection
        self._wake = wake
        self._lock = threading.Lock()
        self._kept = bytearray()
        self.congested = False
        """The socket takes nothing at present: call `flush` when it does."""
        self.due: float | None = None
        """When to call `flush` for frames that may wait, `time.monotonic()` seconds; None if there is no need."""

    def put(self, data: bytes, *, may_wait: bool = False) -> None:
        """Send an encoded frame, at once or within `GATHER` seconds."""
        with self._lock:
            self._kept += data
            if not may_wait:
                if self.congested:
                    return
                self._send()
                if not self.congested:
                    return
            elif self.due is None:
                self.due = time.monotonic() + GATHER
            else:
                return
        self._wake()

    def flush(self) -> None:
        """Send what is kept, as far as the socket takes it."""
        with self._lock:
            # While reports keep coming the thread looks again by itself, so that none of them has to wake it.
            self.due = time.monotonic() + GATHER if self._kept else None
            self._send()

    def _send(self) -> None:
        if self._kept:
            try:
                with memoryview(self._kept) as view:
                    sent = self._connection.send(view)
            except BlockingIOError:
                sent = 0
            except OSError:
                # The thread that reads from the socket learns how it ended, and tells.
                sent = len(self._kept)
            del self._kept[:sent]
        self.congested = bool(self._kept)
