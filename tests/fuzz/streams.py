"""A stream between two workers without a network: what one side says is given, and what the other does meanwhile."""

import asyncio
from collections.abc import Sequence

import grpc.aio

from tests.transports.lone_link import ACTIONS, LoneLink


def does(action: str) -> bytes:
    """The step in which the receiver does one of `ACTIONS`."""
    return bytes([1 + ACTIONS.index(action)])


def says(message: bytes) -> bytes:
    """The step in which the peer says a message."""
    return b"\0" + message


class Situation:
    """A link between a worker and a peer that says `steps`.

    Args:
        steps: what `says` and `does` make; each either 0 and a message of the peer, or what the receiver does next.
    """

    def __init__(self, steps: Sequence[bytes]) -> None:
        self._steps = iter(steps)
        self._worker = LoneLink(self)

    def play(self) -> None:
        """Let everything happen.

        Raises:
            AssertionError: see `LoneLink.play`.
        """
        self._worker.play()

    async def write(self, message: bytes) -> None:
        """See `Stream.write`; nobody reads it."""

    async def read(self) -> object:
        """See `Stream.read`."""
        for step in self._steps:
            # Let the link write what came of the last step.
            for _ in range(3):
                await asyncio.sleep(0)
            if step[:1] == b"\0":
                return step[1:]
            getattr(self._worker, ACTIONS[(sum(step[:1]) - 1) % len(ACTIONS)])()
        return grpc.aio.EOF
