"""Endpoints that are threads of one process: a message is handed over as it is, nothing is copied.

Behaves like the transports that cross processes, so that what holds here holds there. A received tensor is a
view into the sender's buffer: read it, never write to it.
"""

from collections import defaultdict, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from threading import RLock

from typing_extensions import override

from transports.base import Channel, ChannelSpec, Gate, Limits, Outcome
from transports.core import CoreChannel, CoreDelivery, CoreEndpoint, CoreOffer
from transports.errors import Refused
from transports.header import encode_header
from transports.message import Header, Message, Payload

_Key = tuple[str, str, str]
"""Channel, group and worker."""


@dataclass(frozen=True, slots=True)
class _Parcel:
    """A message on its way to one or more ends."""

    header: Header
    payload: Payload
    delivery: CoreDelivery


class _InprocOffer(CoreOffer):
    """An offer whose payload is in this process already."""

    def __init__(self, parcel: _Parcel, receiver: "InprocChannel", sender: "InprocChannel") -> None:
        super().__init__(parcel.header, receiver, sender.owner)
        self.parcel = parcel
        self._receiver = receiver
        self._sender = sender

    @override
    def _start(self) -> None:
        # The receiver reads the sender's buffer from here on, so that buffer must never be used again.
        self.parcel.payload.pin()
        self.complete(Payload(self.parcel.payload.buffer))

    @override
    def _answer(self, outcome: Outcome) -> None:
        self._sender.settle(self._receiver.owner, self, outcome)


class InprocChannel(CoreChannel):
    """One worker's side of a channel inside a `Hub`. Its state is guarded by the hub's lock."""

    def __init__(self, spec: ChannelSpec, endpoint: "InprocEndpoint") -> None:
        super().__init__(spec, endpoint.mailbox)
        self.owner = endpoint.name
        self.peers: dict[str, InprocChannel] = {}
        self.offered: defaultdict[str, dict[int, _InprocOffer]] = defaultdict(dict)
        self.unsent: defaultdict[str, deque[_Parcel]] = defaultdict(deque)
        self.lost: dict[str, str] = {}
        self._limits = endpoint.limits
        self._lock = endpoint.hub.lock

    @override
    def _dispatch(self, message: Message, ends: Sequence[str], delivery: CoreDelivery) -> None:
        header = replace(message.header, sender=self.owner)
        encode_header(header, self._limits)
        parcel = _Parcel(header, message.payload, delivery)
        with self._lock:
            for end in ends:
                if end in self.peers:
                    self._hand_over(parcel, self.peers[end])
                elif end in self.lost:
                    delivery.settle(end, Outcome("lost", self.lost[end]))
                else:
                    self.unsent[end].append(parcel)

    def _hand_over(self, parcel: _Parcel, peer: "InprocChannel") -> None:
        offer = _InprocOffer(parcel, peer, self)
        self.offered[peer.owner][id(offer)] = offer
        peer.note_arrived(offer)

    def settle(self, end: str, offer: _InprocOffer, outcome: Outcome) -> None:
        """`end` answered."""
        with self._lock:
            self.offered[end].pop(id(offer), None)
            offer.parcel.delivery.settle(end, outcome)

    def meet(self, peer: "InprocChannel") -> None:
        """`peer` has the channel open too."""
        self.peers[peer.owner] = peer
        self.lost.pop(peer.owner, None)
        self.note_joined(peer.owner)
        for parcel in self.unsent.pop(peer.owner, ()):
            self._hand_over(parcel, peer)

    def part(self, end: str, reason: str, *, clean: bool) -> None:
        """`end` is gone, and with it all that was on its way there."""
        del self.peers[end]
        self.lost[end] = reason
        self.note_left(end, reason, clean=clean)
        for offer in self.offered.pop(end, {}).values():
            offer.lose(f"{self.owner} and {end} are no longer connected: {reason}")
            offer.parcel.delivery.settle(end, Outcome("lost", reason))

    def give_up(self, reason: str) -> None:
        """Close this side: what waited for ends to join is lost."""
        for end, parcels in self.unsent.items():
            for parcel in parcels:
                parcel.delivery.settle(end, Outcome("lost", reason))
        self.unsent.clear()


class Hub:
    """The network of one process: endpoints with the same hub find each other by name."""

    def __init__(self) -> None:
        self.lock = RLock()
        self._channels: dict[_Key, InprocChannel] = {}

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
                peer = self._channels.get((spec.name, spec.group, end))
                if peer is not None and channel.owner in peer.spec.ends:
                    channel.meet(peer)
                    peer.meet(channel)

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
        super().__init__(name, gate, limits)
        self.hub = hub

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
        """Do nothing: the hub knows everybody."""

    @override
    def close(self, timeout: float = 5.0) -> None:
        del timeout  # nothing here takes time
        reason = self.mailbox.aborted
        self.hub.remove(self.name, reason or f"{self.name} left", clean=reason is None)
        self.mailbox.abort(f"{self.name} is closed")
