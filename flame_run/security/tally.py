"""Counts connections that never become a stream: gRPC tells nobody about a handshake that fails."""

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress


class Tally:
    """Handshakes begun, less those whose peer then spoke.

    Args:
        loop: what waits before a handshake is given up.
        grace: seconds that a peer has from its handshake to its first stream.
        refused: told, in words, when the number grows.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, grace: float, refused: Callable[[str], None]) -> None:
        self._loop = loop
        self._grace = grace
        self._refused = refused
        self._lock = threading.Lock()
        self._begun = self._admitted = self._reported = 0
        self._peers: set[str] = set()

    def begun(self) -> None:
        """Note a new connection. Safe from any thread."""
        with self._lock:
            self._begun += 1
            number = self._begun
        with suppress(RuntimeError):  # the loop ends with the server; what is left is told of by the last report
            self._loop.call_soon_threadsafe(self._loop.call_later, self._grace, self.report, number)

    def admitted(self, peer: str, looks: int) -> None:
        """Note a stream of `peer`, which has connected `looks` times before only to see our certificate."""
        with self._lock:
            self._admitted += looks + (peer not in self._peers)
            self._peers.add(peer)

    def report(self, number: int | None = None) -> None:
        """Tell of connections, up to the one of this `number` (None: all), that ended without a stream and were not told of yet."""
        with self._lock:
            missing = (self._begun if number is None else number) - self._admitted - self._reported
            if missing <= 0:
                return
            self._reported += missing
        connections = "1 connection" if missing == 1 else f"{missing} connections"
        self._refused(f"{connections} without TLS, or without a valid certificate of this job")
