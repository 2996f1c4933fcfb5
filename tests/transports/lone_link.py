"""A link between two workers without a network: a test plays its stream, and everything that its worker may do."""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import cache
from typing import Any
from unittest.mock import patch

import torch

from transports.base import END_OF_STREAM, Arrived, ChannelSpec, Limits
from transports.base import Stream as Pieces
from transports.core import CoreChannel
from transports.errors import PeerLost, ProtocolError, WaitTimeout
from transports.grpc_channel import inbox
from transports.grpc_channel.inbox import GrpcOffer
from transports.grpc_channel.link import Link
from transports.grpc_channel.stream import Stream
from transports.grpc_channel.transfer import BufferPool, Outgoing
from transports.header import encode_header
from transports.mailbox import Mailbox
from transports.message import Header, Message, Payload, TensorSpec
from transports.offers import CoreDelivery
from transports.shared_memory.pool import SharedMemory

LIMITS = Limits(
    max_message_bytes=2**13,
    max_tensors=8,
    max_header_bytes=4096,
    max_scalars=8,
    max_scalar_bytes=64,
    max_offers=3,
    max_offered_bytes=2**14,
)
PART_BYTES = 1024
"""Bytes that are asked for at once where a payload is taken piece by piece."""
MOST_SENT = 8
"""Messages; what a receiver sends is its own doing, so that more of it costs time and finds nothing."""
ACTIONS = ("receive", "fetch", "stream", "next", "accept", "refuse", "send")
"""What the worker may do; methods of `LoneLink`."""


@cache
def message() -> Message:
    """What the worker sends: too large to travel with its offer, in two runs of chunks."""
    return Message("weights", 1, groups={"g": {"w": torch.arange(17_000, dtype=torch.float32)}}).packed()


@cache
def message_bytes() -> bytes:
    """Its payload."""
    return bytes(message().buffer.numpy())


def header_of(nbytes: int) -> bytes:
    """A header of `a` with one tensor of bytes."""
    specs = {"g": {"w": TensorSpec(torch.uint8, (nbytes,))}} if nbytes else {}
    return encode_header(Header(kind="update", round=1, sender="a", specs=specs, nbytes=nbytes), Limits())


class Pool(BufferPool):
    """Notes the largest payload that was asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.largest = 0

    def take(self, nbytes: int) -> Payload:
        """See `BufferPool.take`."""
        self.largest = max(self.largest, nbytes)
        return super().take(nbytes)


class Loop:
    """Does at once what is posted."""

    def post(self, action: Callable[..., object], *arguments: object) -> bool:
        """See `LoopThread.post`."""
        action(*arguments)
        return True


class Endpoint:
    """What a link needs of its endpoint."""

    limits = LIMITS

    def __init__(self) -> None:
        self.pool = Pool()
        self.parts = Pool()
        self.loop = Loop()
        self.memory = SharedMemory("lone")
        self.refused = 0

    def count_refused(self, what: str) -> None:
        """See `GrpcEndpoint.count_refused`."""
        self.refused += 1


class Plain(CoreChannel):
    """A channel of which only the events matter."""

    def _dispatch(self, message: Message, ends: Sequence[str], delivery: CoreDelivery) -> None:
        raise AssertionError


class LoneLink:
    """The link to the peer `a`, and its worker.

    Args:
        stream: what the peer says, and what it hears.
    """

    def __init__(self, stream: Stream) -> None:
        endpoint: Any = Endpoint()
        self.owner: Endpoint = endpoint
        self.offers: list[GrpcOffer] = []
        self.taken: list[bytearray] = []
        """What was taken of each offer piece by piece, of those where that has begun; see `streamed`."""
        self.streamed: list[tuple[GrpcOffer, Pieces]] = []
        self._mailbox = Mailbox()
        self._channel = Plain(ChannelSpec(name="c", group="g", ends=("a",)), self._mailbox)
        self._deliveries: list[CoreDelivery] = []
        self.link = Link(endpoint, self._channel, "a", stream, lambda _: None, checked=True, shared=False)

    def play(self) -> None:
        """Let everything happen.

        Raises:
            AssertionError: the link failed, something is not settled at its end, or it took more memory than it may.
        """
        with patch.object(inbox, "PIECE_BYTES", PART_BYTES):
            asyncio.run(self.link.run())
            self.receive()
            outcomes = list(self._outcomes())
        assert not self.link.reason.startswith("failed here"), self.link.reason
        assert self.owner.pool.largest <= LIMITS.max_message_bytes
        assert self.owner.parts.largest <= PART_BYTES
        assert self.owner.refused >= (self.link.violation is not None)
        assert all(outcome is not None for outcome in outcomes)

    def receive(self) -> None:
        """Take every event that waits."""
        with suppress(WaitTimeout):
            while True:
                event = self._channel.receive(0)
                if isinstance(event, Arrived):
                    assert isinstance(event.offer, GrpcOffer)
                    self.offers.append(event.offer)

    def fetch(self) -> None:
        """Ask for every payload."""
        self.receive()
        for offer in self.offers:
            offer.prefetch()

    def stream(self) -> None:
        """Begin to take the newest payload piece by piece, once more if that has begun."""
        self.receive()
        for offer in self.offers[-1:]:
            self.streamed.append((offer, offer.stream()))
            self.taken.append(bytearray())

    def next(self) -> None:
        """Take the next piece of each that is here."""
        for at in range(len(self.streamed)):
            with suppress(WaitTimeout, PeerLost, ProtocolError, ValueError):
                self._take_piece(at)

    def _take_piece(self, at: int) -> bool:
        """Take one piece; whether there was one."""
        piece = self.streamed[at][1].next(0)
        if piece is END_OF_STREAM:
            return False
        assert piece.offset == len(self.taken[at])
        self.taken[at] += bytes(piece.data.numpy())
        return True

    def accept(self) -> None:
        """Accept the newest offer."""
        for offer in self.offers[-1:]:
            offer.accept()

    def refuse(self) -> None:
        """Refuse the oldest offer."""
        for offer in self.offers[:1]:
            offer.refuse("no")

    def send(self) -> None:
        """Offer `message`."""
        if len(self._deliveries) == MOST_SENT:
            return
        delivery = CoreDelivery(self._mailbox, "a message", ["a"], lambda: None)
        self._deliveries.append(delivery)
        outgoing = Outgoing(encode_header(Header(kind="weights", round=1, sender="b"), Limits()), message(), delivery, 5000)
        outgoing.number = len(self._deliveries)
        self.link.offer(outgoing)

    def _outcomes(self) -> Iterator[object]:
        """What became of every offer, every stream and every delivery; waiting for none."""
        for offer in self.offers:
            try:
                yield offer.fetch(0)
            except (PeerLost, ProtocolError, ValueError) as error:
                yield error
        for at in range(len(self.streamed)):
            try:
                while self._take_piece(at):
                    pass
                assert len(self.taken[at]) == self.streamed[at][0].header.nbytes
            except (PeerLost, ProtocolError, ValueError) as error:
                yield error
        for delivery in self._deliveries:
            yield delivery.wait(0)
