"""What a link stands on: a stream of gRPC and the endpoint that owns it."""

import asyncio
from typing import Protocol

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


class Owner(Protocol):
    """What a link needs of its endpoint."""

    limits: Limits
    pool: BufferPool
    loop: LoopThread
    memory: SharedMemory

    def count_refused(self, what: str) -> None:
        """Log and count something that was refused."""
