"""Payloads that are there already, or in memory that can be mapped, given out piece by piece."""

from collections.abc import Callable

from transports.base import END_OF_STREAM, Piece
from transports.message import Message, Payload

PIECE_BYTES = 4 * 2**20
"""Large enough that the work for each piece does not count, small enough that it stays in the caches while it is used."""


class PayloadStream:
    """The pieces of a payload; memory that is only mapped here is let go piece by piece."""

    def __init__(self, payload: Payload) -> None:
        self._payload = payload
        self._at = 0

    def next(self, timeout: float | None = None) -> Piece:
        """See `transports.base.Stream`; never waits."""
        del timeout
        start, size = self._at, self._payload.buffer.numel()
        self._payload.forget(max(0, start - PIECE_BYTES), start)
        if start == size:
            return END_OF_STREAM
        self._at = min(start + PIECE_BYTES, size)
        self._payload.expect(start, self._at)
        return Piece(start, self._payload.buffer[start : self._at])


class FetchedStream:
    """The pieces of a message that is fetched whole.

    Args:
        fetch: takes a timeout in seconds and gives the message; see `Offer.fetch`.
    """

    def __init__(self, fetch: Callable[[float | None], Message]) -> None:
        self._fetch = fetch
        self._stream: PayloadStream | None = None

    def next(self, timeout: float | None = None) -> Piece:
        """See `transports.base.Stream`."""
        if self._stream is None:
            self._stream = PayloadStream(self._fetch(timeout).payload)
        return self._stream.next()
