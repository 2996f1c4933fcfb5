"""A stream between two workers without a network: what one side says is given, and what the other does meanwhile."""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any

import grpc.aio
import torch

from transports.base import Arrived, ChannelSpec, Limits, Offer
from transports.core import CoreChannel
from transports.errors import PeerLost, ProtocolError, WaitTimeout
from transports.grpc_channel.link import Link
from transports.grpc_channel.transfer import BufferPool, Outgoing
from transports.header import encode_header
from transports.mailbox import Mailbox
from transports.message import Header, Message, Payload
from transports.offers import CoreDelivery
from transports.shared_memory.pool import SharedMemory

LIMITS = Limits(
    max_message_bytes=2**16,
    max_tensors=8,
    max_header_bytes=4096,
    max_scalars=8,
    max_scalar_bytes=64,
    max_offers=3,
    max_offered_bytes=2**17,
)
MOST_SENT = 8
"""Messages; what a receiver sends is its own doing, so that more of it costs time and finds nothing."""


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
        self.loop = Loop()
        self.memory = SharedMemory("fuzz")
        self.refused = 0

    def count_refused(self, what: str) -> None:
        """See `GrpcEndpoint.count_refused`."""
        self.refused += 1


class Plain(CoreChannel):
    """A channel of which only the events matter."""

    def _dispatch(self, message: Message, ends: Sequence[str], delivery: CoreDelivery) -> None:
        raise AssertionError


class Situation:
    """A link between a worker and a peer that says `steps`.

    Args:
        steps: each either 0 and a message of the peer, or the number of what the receiver does next.
    """

    def __init__(self, steps: Sequence[bytes]) -> None:
        self._steps = iter(steps)
        self._mailbox = Mailbox()
        self._channel = Plain(ChannelSpec(name="c", group="g", ends=("a",)), self._mailbox)
        self._offers: list[Offer] = []
        self._deliveries: list[CoreDelivery] = []
        self._actions = (self._receive, self._fetch, self._accept, self._refuse, self._send)
        endpoint: Any = Endpoint()
        self.pool: Pool = endpoint.pool
        self.link = Link(endpoint, self._channel, "a", self, lambda _: None, checked=True, shared=False)

    def play(self) -> None:
        """Let everything happen."""
        asyncio.run(self.link.run())
        self._receive()

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
            self._actions[sum(step[:1]) % len(self._actions)]()
        return grpc.aio.EOF

    def _receive(self) -> None:
        with suppress(WaitTimeout):
            while True:
                event = self._channel.receive(0)
                if isinstance(event, Arrived):
                    self._offers.append(event.offer)

    def _fetch(self) -> None:
        self._receive()
        for offer in self._offers:
            offer.prefetch()

    def _accept(self) -> None:
        for offer in self._offers[-1:]:
            offer.accept()

    def _refuse(self) -> None:
        for offer in self._offers[:1]:
            offer.refuse("no")

    def _send(self) -> None:
        if len(self._deliveries) == MOST_SENT:
            return
        message = Message("weights", 1, groups={"g": {"w": torch.zeros(1000)}}).packed()
        delivery = CoreDelivery(self._mailbox, "a message", ["a"], lambda: None)
        self._deliveries.append(delivery)
        outgoing = Outgoing(encode_header(Header(kind="weights", round=1, sender="b"), Limits()), message, delivery, 1500)
        outgoing.number = len(self._deliveries)
        self.link.offer(outgoing)

    def outcomes(self) -> Iterator[object]:
        """What became of every offer and every delivery; waiting for none."""
        for offer in self._offers:
            try:
                yield offer.fetch(0)
            except (PeerLost, ProtocolError, ValueError) as error:
                yield error
        for delivery in self._deliveries:
            yield delivery.wait(0)
