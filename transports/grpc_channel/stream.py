"""What a link stands on: a stream of gRPC and the endpoint that owns it."""

import asyncio
from dataclasses import dataclass
from typing import Protocol, Self

import grpc
import grpc.aio

from transports.base import Limits
from transports.grpc_channel.loop import LoopThread
from transports.grpc_channel.transfer import BufferPool
from transports.shared_memory.pool import SharedMemory

STREAM_ERRORS = (grpc.RpcError, grpc.aio.UsageError, grpc.aio.InternalError, asyncio.InvalidStateError)
"""What gRPC raises where a stream is over."""


class Stream(Protocol):
    """A bidirectional stream of raw messages."""

    async def read(self) -> object:
        """The next message, or `grpc.aio.EOF`."""

    async def write(self, message: bytes) -> None:
        """Send a message; returns when flow control lets the next one follow."""


_IDENTITY_BYTES, _ATTEMPT_BYTES = 16, 8


@dataclass(frozen=True, slots=True)
class Instance:
    """Which process a worker's stream comes from, and how many streams it has opened before: tells new ones from old ones."""

    identity: bytes
    """16 random bytes that only this process and those it dials know."""
    attempt: int = 0

    def next(self) -> Self:
        """For the next stream of this process."""
        return type(self)(self.identity, self.attempt + 1)

    def replaces(self, other: Self | None) -> bool:
        """Whether a stream of `other` is over because this one was opened."""
        return other is not None and self.identity == other.identity and self.attempt > other.attempt

    def to_bytes(self) -> bytes:
        """What travels."""
        return self.identity + self.attempt.to_bytes(_ATTEMPT_BYTES, "big")

    @classmethod
    def from_bytes(cls, data: bytes) -> Self | None:
        """What these bytes say; None where they say nothing."""
        if len(data) != _IDENTITY_BYTES + _ATTEMPT_BYTES:
            return None
        return cls(data[:_IDENTITY_BYTES], int.from_bytes(data[_IDENTITY_BYTES:], "big"))


class Owner(Protocol):
    """What a link needs of its endpoint."""

    limits: Limits
    pool: BufferPool
    parts: BufferPool
    loop: LoopThread
    memory: SharedMemory

    def count_refused(self, what: str) -> None:
        """Log and count something that was refused."""
