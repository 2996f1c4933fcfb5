"""Endpoints that are threads of one process: a message is handed over as it is, nothing is copied.

Behaves like the transports that cross processes, so that what holds here holds there. A received tensor is a
view into the sender's buffer: read it, never write to it.
"""

from collections import defaultdict, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from threading import RLock

from typing_extensions import override

from transports.base import Channel, ChannelSpec, Gate, Limits, Outcome, Stream
from transports.core import CoreChannel, CoreEndpoint
from transports.errors import PeerLost, Refused
from transports.header import encode_header
from transports.message import Header, Message, Payload
from transports.offers import CoreDelivery, CoreOffer
from transports.pieces import FetchedStream

_Key = tuple[str, str, str]
"""Channel, group and worker."""


@dataclass(frozen=True, slots=True)
class Parcel:
    """A message on its way to one or more ends."""

    header: Header
    payload: Payload
    delivery: CoreDelivery


class InprocOffer(CoreOffer):
    """An offer whose payload is in this process already."""

    def __init__(self, parcel: Parcel, receiver: "InprocChannel", sender: "InprocChannel") -> None:
        super().__init__(parcel.header, receiver, sender.owner)
        self.parcel = parcel
        self.receiver = receiver
        self.sender = sender

    @override
    def _start(self) -> None:
        self.receiver.hub.transfer(self)

    @override
    def stream(self) -> Stream:
        return FetchedStream(self.fetch)

    @override
    def _answer(self, outcome: Outcome) -> None:
        self.receiver.hub.answer(self, outcome)


class InprocChannel(CoreChannel):
    """One worker's side of a channel inside a `Hub`. Its state is guarded by the hub's lock."""

    def __init__(self, spec: ChannelSpec, endpoint: "InprocEndpoint") -> None:
        super().__init__(spec, endpoint.mailbox)
        self.owner = endpoint.name
        self.hub = endpoint.hub
        self.forgotten = endpoint.forgotten
        self.peers: dict[str, InprocChannel] = {}
        self.offered: defaultdict[str, dict[int, InprocOffer]] = defaultdict(dict)
        self.unsent: defaultdict[str, deque[Parcel]] = defaultdict(deque)
        self.lost: dict[str, str] = {}
        self._endpoint = endpoint

    @override
    def _dispatch(self, message: Message, ends: Sequence[str], delivery: CoreDelivery) -> None:
        header = replace(message.header, sender=self.owner)
        encode_header(header, self._endpoint.limits)
        parcel = Parcel(header, message.payload, delivery)
        with self.hub.lock:
            for end in ends:
                if end in self.peers:
                    self.hub.offer(parcel, self, self.peers[end])
                elif end in self.lost:
                    delivery.settle(end, Outcome("lost", self.lost[end]))
                else:
                    self.unsent[end].append(parcel)

    def hand_over(self, offer: InprocOffer) -> None:
        """Let a peer see what we offer."""
        self.offered[offer.receiver.owner][id(offer)] = offer
        offer.receiver.note_arrived(offer)

    def settle(self, offer: InprocOffer, outcome: Outcome) -> None:
        """A peer answered."""
        end = offer.receiver.owner
        self.offered[end].pop(id(offer), None)
        offer.parcel.delivery.settle(end, outcome)

    def count_refused(self) -> None:
        """Count a message of a peer that was beyond the rules."""
        self._endpoint.refused += 1

    def meet(self, peer: "InprocChannel") -> None:
        """`peer` has the channel open too."""
        self.peers[peer.owner] = peer
        self.lost.pop(peer.owner, None)
        self.note_joined(peer.owner)
        for parcel in self.unsent.pop(peer.owner, ()):
            self.hub.offer(parcel, self, peer)

    def part(self, end: str, reason: str, *, clean: bool) -> None:
        """`end` is no longer connected, and what was on its way there is lost."""
        self.drop(end, reason)
        self.note_left(end, reason, clean=clean, final=clean)

    def drop(self, end: str, reason: str) -> None:
        """End the connection with `end` without an event."""
        del self.peers[end]
        self.lost[end] = reason
        for offer in self.offered.pop(end, {}).values():
            offer.lose(f"{self.owner} and {end} are no longer connected: {reason}")
            offer.parcel.delivery.settle(end, Outcome("lost", reason))

    def give_up_on(self, end: str, reason: str) -> None:
        """`end` will not come back."""
        self.lost[end] = reason
        for parcel in self.unsent.pop(end, ()):
            parcel.delivery.settle(end, Outcome("lost", reason))
        self.note_left(end, reason, clean=False, final=True, error=PeerLost(end, reason))

    def give_up(self, reason: str) -> None:
        """Close this side: what waited for ends to join is lost."""
        for end, parcels in self.unsent.items():
            for parcel in parcels:
                parcel.delivery.settle(end, Outcome("lost", reason))
        self.unsent.clear()


def _pair(spec: ChannelSpec, worker: str, end: str) -> tuple[str, str, frozenset[str]]:
    return spec.name, spec.group, frozenset((worker, end))


class Hub:
    """The network of one process: endpoints with the same hub find each other by name."""

    def __init__(self) -> None:
        self.lock = RLock()
        self._channels: dict[_Key, InprocChannel] = {}
        self._apart: set[tuple[str, str, frozenset[str]]] = set()

    def add(self, channel: InprocChannel) -> None:
        """Connect a channel with the peers that have it open.

        Raises:
            Refused: a worker of this name has it open already.
        """
        spec = channel.spec
        with self.lock:
            if (spec.name, spec.group, channel.owner) in self._channels:
                raise Refused(f"{channel.owner} has {channel} open already")
            self._channels[spec.name, spec.group, channel.owner] = channel
            for end in spec.ends:
                if end in channel.forgotten:
                    channel.give_up_on(end, channel.forgotten[end])
                else:
                    self._introduce(channel, end)

    def _introduce(self, channel: InprocChannel, end: str) -> None:
        peer = self._channels.get((channel.spec.name, channel.spec.group, end))
        if peer is None or end in channel.peers or channel.owner not in peer.spec.ends:
            return
        if _pair(channel.spec, channel.owner, end) in self._apart:
            return
        if end not in channel.forgotten and channel.owner not in peer.forgotten:
            channel.meet(peer)
            peer.meet(channel)

    def offer(self, parcel: Parcel, sender: InprocChannel, receiver: InprocChannel) -> None:
        """Carry an offer to a peer that is connected; called with the lock."""
        sender.hand_over(InprocOffer(parcel, receiver, sender))

    def transfer(self, offer: InprocOffer) -> None:
        """Carry a payload."""
        # The receiver reads the sender's buffer from here on, so that buffer must never be used again.
        offer.parcel.payload.pin()
        offer.complete(Payload(offer.parcel.payload.buffer))

    def answer(self, offer: InprocOffer, outcome: Outcome) -> None:
        """Carry an answer."""
        with self.lock:
            offer.sender.settle(offer, outcome)

    def gate(self, worker: str, gate: Gate | None) -> Gate | None:  # noqa: ARG002 - for those who watch who waits
        """What surrounds the waits of `worker`, who has `gate` itself."""
        return gate

    def sever(self, worker: str, end: str, reason: str = "its connection broke", *, channel: str | None = None) -> None:
        """Break the connections between two workers; they stay apart until `mend`. `channel`: only those of that name."""
        with self.lock:
            for mine in self._channels_with(worker, end):
                if channel in (None, mine.spec.name):
                    self._apart.add(_pair(mine.spec, worker, end))
                    if end in mine.peers:
                        mine.peers[end].part(worker, reason, clean=False)
                        mine.part(end, reason, clean=False)

    def mend(self, worker: str, end: str, *, channel: str | None = None) -> None:
        """Connect two workers again where `sever` parted them."""
        with self.lock:
            for mine in self._channels_with(worker, end):
                if channel in (None, mine.spec.name):
                    self._apart.discard(_pair(mine.spec, worker, end))
                    self._introduce(mine, end)

    def _channels_with(self, worker: str, end: str) -> list[InprocChannel]:
        return [channel for key, channel in self._channels.items() if key[2] == worker and end in channel.spec.ends]

    def forget(self, worker: str, end: str, reason: str) -> None:
        """`worker` gives `end` up."""
        with self.lock:
            for channel in self._channels_with(worker, end):
                peer = channel.peers.get(end)
                if peer is not None:
                    peer.part(worker, f"{worker} gave it up: {reason}", clean=False)
                    channel.drop(end, reason)
                channel.give_up_on(end, reason)

    def renew(self, worker: str, end: str) -> None:
        """`worker` takes `end` back after it was started anew."""
        with self.lock:
            for channel in self._channels_with(worker, end):
                channel.hope(end)
                self._introduce(channel, end)

    def remove(self, worker: str, reason: str, *, clean: bool) -> None:
        """Take all channels of a worker out; unclean, it is as if its connections broke."""
        with self.lock:
            for key in [key for key in self._channels if key[2] == worker]:
                channel = self._channels.pop(key)
                for end, peer in list(channel.peers.items()):
                    peer.part(worker, reason, clean=clean)
                    channel.part(end, reason, clean=clean)
                channel.give_up(reason)


class InprocEndpoint(CoreEndpoint):
    """A worker that is a thread of this process.

    Args:
        name: name of the worker, unique in the hub.
        hub: where its peers are.
        gate: surrounds each blocking wait.
        limits: bounds on messages, as on a network.
    """

    def __init__(self, name: str, hub: Hub, *, gate: Gate | None = None, limits: Limits | None = None) -> None:
        super().__init__(name, hub.gate(name, gate), limits)
        self.hub = hub
        self._addresses: dict[str, str] = {}

    @property
    @override
    def address(self) -> str | None:
        return None

    @override
    def open(self, spec: ChannelSpec) -> Channel:
        self._check_open()
        channel = InprocChannel(spec, self)
        self.hub.add(channel)
        return channel

    @override
    def connect(self, addresses: Mapping[str, str]) -> None:
        """Take workers back whose address changed: the hub knows where they are."""
        with self.hub.lock:
            for worker, address in addresses.items():
                if self._addresses.get(worker) != address:
                    self._addresses[worker] = address
                    if self.forgotten.pop(worker, None) is not None:
                        self.hub.renew(self.name, worker)

    @override
    def forget(self, worker: str, reason: str) -> None:
        with self.hub.lock:
            self.forgotten[worker] = reason
            self.hub.forget(self.name, worker, reason)

    @override
    def close(self, timeout: float = 5.0) -> None:
        del timeout  # nothing here takes time
        reason = self.mailbox.aborted
        self.hub.remove(self.name, reason or f"{self.name} left", clean=reason is None)
        self.mailbox.abort(f"{self.name} is closed")
