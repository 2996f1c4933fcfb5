"""A worker's side of a channel: the links to its ends, and what waits for ends to join."""

from collections import defaultdict, deque
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Protocol

from typing_extensions import override

from transports.base import ChannelSpec, Outcome
from transports.core import CoreChannel
from transports.errors import Aborted, PeerLost, TransportError
from transports.grpc_channel.frames import INLINE_BYTES
from transports.grpc_channel.link import Link
from transports.grpc_channel.stream import Owner
from transports.grpc_channel.transfer import Outgoing
from transports.header import encode_header
from transports.mailbox import Mailbox
from transports.message import Message, Scalar, Specs, packed_size
from transports.offers import CoreDelivery
from transports.shared_memory.machine import machine_id
from transports.shared_memory.segment import SharedPayload


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
        self.machine = "" if spec.backend == "grpc" else machine_id()
        """Tells peers whether they can share memory with us; empty where this channel does not."""
        self.instances: dict[str, bytes] = {}
        """Which process each end was first, of those that dialled us from its address of now."""
        self._sharing: frozenset[str] = frozenset()
        self._endpoint = endpoint
        self._unsent: defaultdict[str, deque[Outgoing]] = defaultdict(deque)
        self._lost: dict[str, str] = {}

    def shares_with(self, machine: str) -> bool:
        """Whether a peer that says `machine` of itself can share memory with us, and wants to."""
        return bool(machine) and machine == self.machine

    def why_not(self, end: str, machine: str) -> str | None:
        """Why a peer that says `machine` of itself must not be on this channel; None where it may."""
        if self.spec.backend != "shm" or self.shares_with(machine):
            return None
        where = "another machine, container or user, or has backend grpc"
        return f"{self} has backend shm, but {end} and {self._endpoint.name} cannot share memory: one is on {where}; use auto"

    @override
    def allocate(self, kind: str, round: int, specs: Specs, *, scalars: Mapping[str, Scalar] | None = None) -> Message:
        nbytes = packed_size(specs)
        payload = self._endpoint.memory.take(nbytes) if nbytes > INLINE_BYTES and self._sharing else None
        return Message.allocate(kind, round, specs, scalars=scalars, payload=payload)

    @override
    def _pack(self, message: Message, ends: Sequence[str]) -> Message:
        if isinstance(message.payload if message.is_packed else None, SharedPayload):
            return message
        wanted = message.nbytes > INLINE_BYTES and not self._sharing.isdisjoint(ends)
        return message.packed(into=self._endpoint.memory.take(message.nbytes) if wanted else None)

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
        if link.instance is not None:
            self.instances.setdefault(link.end, link.instance.identity)
        self.links[link.end] = link
        if link.shared:
            self._sharing |= {link.end}
        self._lost.pop(link.end, None)
        self.note_joined(link.end)
        for outgoing in self._unsent.pop(link.end, ()):
            link.offer(outgoing)

    def detach(self, link: Link) -> None:
        """Drop `link`, which is over: its end has left."""
        del self.links[link.end]
        self._sharing -= {link.end}
        self._lose(link.end, link.reason)
        self.note_left(link.end, link.reason, clean=link.clean, final=link.final)

    def miss(self, end: str, error: TransportError) -> None:
        """Note that `end` could not be reached so far."""
        self._lose(end, str(error))
        self.note_left(end, str(error), clean=False, error=error)

    def renew(self, end: str) -> None:
        """`end` was started anew: drop what connects us with its predecessor."""
        known, link = self.instances.pop(end, None), self.links.get(end)
        if link is None:
            pass
        elif link.instance is None or link.instance.identity == known:
            link.cut(f"{end} was started anew")
        else:
            self.instances[end] = link.instance.identity
        self.hope(end)

    def give_up_on(self, end: str, error: TransportError) -> None:
        """Note that `end` will not be back, or will not have us."""
        reason, link = error.reason if isinstance(error, PeerLost) else str(error), self.links.get(end)
        if link is not None:
            link.cut(reason, final=True)
        self._lose(end, reason)
        self.note_left(end, reason, clean=False, final=True, error=error)

    def give_up(self, reason: str) -> None:
        """Close: what waits for ends to join is lost."""
        for end in self.spec.ends:
            self._lose(end, reason)

    def _lose(self, end: str, reason: str) -> None:
        self._lost[end] = reason
        for outgoing in self._unsent.pop(end, ()):
            outgoing.delivery.settle(end, Outcome("lost", reason))
