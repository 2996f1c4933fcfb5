"""A worker's side of a channel: the links to its ends, and what waits for ends to join."""

from collections import defaultdict, deque
from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

from typing_extensions import override

from transports.base import ChannelSpec, Outcome
from transports.core import CoreChannel, CoreDelivery
from transports.errors import Aborted, TransportError
from transports.grpc_channel.link import Link
from transports.grpc_channel.stream import Owner
from transports.grpc_channel.transfer import Outgoing
from transports.header import encode_header
from transports.mailbox import Mailbox
from transports.message import Message


class Hosting(Owner, Protocol):
    """What a channel needs of its endpoint."""

    name: str
    mailbox: Mailbox
    chunk_bytes: int

    def next_number(self) -> int:
        """Give a number larger than all before."""


class GrpcChannel(CoreChannel):
    """A channel over gRPC. What is not locked by the mailbox is touched by the loop's thread only."""

    def __init__(self, spec: ChannelSpec, endpoint: Hosting) -> None:
        super().__init__(spec, endpoint.mailbox)
        self.links: dict[str, Link] = {}
        self._endpoint = endpoint
        self._unsent: defaultdict[str, deque[Outgoing]] = defaultdict(deque)
        self._lost: dict[str, str] = {}

    @override
    def _dispatch(self, message: Message, ends: Sequence[str], delivery: CoreDelivery) -> None:
        header = encode_header(replace(message.header, sender=self._endpoint.name), self._endpoint.limits)
        outgoing = Outgoing(header, message, delivery, self._endpoint.chunk_bytes)
        if not self._endpoint.loop.post(self._offer, outgoing, ends):
            raise Aborted(f"{self._endpoint.name} is closed")

    def _offer(self, outgoing: Outgoing, ends: Sequence[str]) -> None:
        outgoing.number = self._endpoint.next_number()
        for end in ends:
            if end in self.links:
                self.links[end].offer(outgoing)
            elif end in self._lost:
                outgoing.delivery.settle(end, Outcome("lost", self._lost[end]))
            else:
                self._unsent[end].append(outgoing)

    def attach(self, link: Link) -> None:
        """Use `link`, which is connected: its end has joined."""
        self.links[link.end] = link
        self._lost.pop(link.end, None)
        self.note_joined(link.end)
        for outgoing in self._unsent.pop(link.end, ()):
            link.offer(outgoing)

    def detach(self, link: Link) -> None:
        """Drop `link`, which is over: its end has left."""
        del self.links[link.end]
        self._lose(link.end, link.reason)
        self.note_left(link.end, link.reason, clean=link.clean)

    def give_up_on(self, end: str, error: TransportError) -> None:
        """Note that `end` cannot be reached, or will not have us."""
        self._lose(end, str(error))
        self.note_left(end, str(error), clean=False, error=error)

    def give_up(self, reason: str) -> None:
        """Close: what waits for ends to join is lost."""
        for end in self.spec.ends:
            self._lose(end, reason)

    def _lose(self, end: str, reason: str) -> None:
        self._lost[end] = reason
        for outgoing in self._unsent.pop(end, ()):
            outgoing.delivery.settle(end, Outcome("lost", reason))
