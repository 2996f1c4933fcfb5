"""What every transport shares: membership of a channel, events, waits. A transport adds how bytes move."""

import time
from abc import abstractmethod
from collections import deque
from collections.abc import Collection, Iterable, Sequence

from typing_extensions import override

from transports.base import Arrived, Channel, ChannelSpec, Delivery, Endpoint, Event, Gate, Joined, Left, Limits
from transports.errors import Aborted, TransportError
from transports.mailbox import Mailbox, listed
from transports.message import Message
from transports.offers import CoreDelivery, CoreOffer

_KEPT_OFFERS = 16
"""Offers without payload of an end that left, which are still received."""


class CoreChannel(Channel):
    """A channel that knows who is there and what happened, in order. A transport implements `_dispatch`."""

    def __init__(self, spec: ChannelSpec, mailbox: Mailbox) -> None:
        self.spec = spec
        self.mailbox = mailbox
        self.events: deque[tuple[int, Event]] = deque()
        self._joined: dict[str, None] = {}
        self._gone: dict[str, str] = {}
        self._final: set[str] = set()
        self._parted: set[str] = set()
        self._hopeless: dict[str, TransportError] = {}
        self._declines: str | None = None

    def __str__(self) -> str:
        return f"channel {self.spec.name!r} (group {self.spec.group!r})"

    @abstractmethod
    def _dispatch(self, message: Message, ends: Sequence[str], delivery: CoreDelivery) -> None:
        """Offer a packed message to `ends`, settling `delivery` for each of them in the end."""

    def _pack(self, message: Message, ends: Sequence[str]) -> Message:  # noqa: ARG002 - for those who pack for some ends
        """`message` in one buffer from which `ends` can be served."""
        return message.packed()

    @property
    @override
    def joined(self) -> frozenset[str]:
        with self.mailbox.reading():
            return frozenset(self._joined)

    @override
    def send(self, message: Message, to: Iterable[str]) -> Delivery:
        ends = tuple(dict.fromkeys(to))
        if unknown := [end for end in ends if end not in self.spec.ends]:
            raise ValueError(f"{listed(unknown)} not on {self}, whose ends are {listed(self.spec.ends)}")
        if self.mailbox.aborted is not None:
            raise Aborted(self.mailbox.aborted)
        packed = self._pack(message, ends)
        payload = packed.payload
        payload.pin()
        delivery = CoreDelivery(self.mailbox, f"{message.kind!r} of round {message.round} on {self}", ends, payload.unpin)
        try:
            self._dispatch(packed, ends, delivery)
        except (TransportError, ValueError):
            payload.unpin()
            raise
        return delivery

    @override
    def receive(self, timeout: float | None = None) -> Event:
        return receive([self], self.mailbox, timeout)

    @override
    def decline(self, reason: str) -> None:
        with self.mailbox.changing():
            self._declines = reason
            waiting = [event.offer for _, event in self.events if isinstance(event, Arrived)]
            kept = [item for item in self.events if not isinstance(item[1], Arrived)]
            self.events.clear()
            self.events.extend(kept)
        for offer in waiting:
            offer.refuse(reason)

    @override
    def wait_joined(self, ends: Collection[str] | None = None, timeout: float | None = None) -> None:
        wanted = tuple(self.spec.ends if ends is None else ends)
        if unknown := [end for end in wanted if end not in self.spec.ends]:
            raise ValueError(f"{listed(unknown)} not on {self}, whose ends are {listed(self.spec.ends)}")

        def everyone() -> bool | None:
            for end in wanted:
                if end in self._hopeless:
                    raise self._hopeless[end]
            # One that has said goodbye was there: what it came for is over, and its partner will hear of that.
            return True if all(end in self._joined or end in self._parted for end in wanted) else None

        def missing() -> str:
            names = [f"{e} (left: {self._gone[e]})" if e in self._gone else e for e in wanted if e not in self._joined]
            return f"on {self}, of {len(wanted)} ends these have not joined: {listed(names)}"

        self.mailbox.wait_until(everyone, timeout, missing)

    def note_joined(self, end: str) -> None:
        """Note that `end` is connected, for the first time or again."""
        with self.mailbox.changing():
            self._joined[end] = None
            self._gone.pop(end, None)
            self._final.discard(end)
            self._parted.discard(end)
            self._hopeless.pop(end, None)
            self.events.append((self.mailbox.stamp(), Joined(self.spec.name, end)))

    def note_left(self, end: str, reason: str, *, clean: bool, final: bool = False, error: TransportError | None = None) -> None:
        """Note that `end` is away, or gone if `final`; with `error` there is no use in waiting for it.

        An event comes of it only where that is news. What `end` offered is offered no longer.
        """
        with self.mailbox.changing():
            news = end not in self._gone or (final and end not in self._final)
            self._joined.pop(end, None)
            self._gone[end] = reason
            if final:
                self._final.add(end)
            if final and clean:
                self._parted.add(end)
            if error is not None:
                self._hopeless[end] = error
            if news:
                self._withdraw(end)
                self.events.append((self.mailbox.stamp(), Left(self.spec.name, end, reason, clean, final)))

    def _withdraw(self, end: str) -> None:
        """Forget what `end` offered and nobody has received; the newest of those without a payload stay, they say enough."""
        kept: deque[tuple[int, Event]] = deque()
        bare = 0
        for stamp, event in reversed(self.events):
            if isinstance(event, Arrived) and event.end == end:
                bare += 1
                if event.offer.header.nbytes or bare > _KEPT_OFFERS:
                    continue
            kept.appendleft((stamp, event))
        self.events = kept

    def hope(self, end: str) -> None:
        """Note that `end` may come back after all."""
        with self.mailbox.changing():
            self._hopeless.pop(end, None)

    def note_arrived(self, offer: CoreOffer) -> None:
        """Note that a peer offers a message."""
        with self.mailbox.changing():
            declines = self._declines
            if declines is None:
                event = Arrived(self.spec.name, offer.end, offer, time.monotonic())
                self.events.append((self.mailbox.stamp(), event))
        if declines is not None:
            offer.refuse(declines)


def receive(channels: Sequence[CoreChannel], mailbox: Mailbox, timeout: float | None) -> Event:
    """Wait for the oldest event on any of `channels`.

    Raises:
        WaitTimeout, Aborted: see `transports.base`.
    """

    def missing() -> str:
        return "nothing happened on " + "; ".join(f"{channel} with {listed(channel.spec.ends)}" for channel in channels)

    def news() -> tuple[Event] | None:
        event = _oldest(channels)
        return None if event is None else (event,)

    (event,) = mailbox.wait_until(news, timeout, missing)
    return event


def _oldest(channels: Sequence[CoreChannel]) -> Event | None:
    waiting = [channel.events for channel in channels if channel.events]
    if not waiting:
        return None
    _, event = min(waiting, key=lambda events: events[0][0]).popleft()
    return event


class CoreEndpoint(Endpoint):
    """An endpoint with its mailbox and channels."""

    def __init__(self, name: str, gate: Gate | None, limits: Limits | None) -> None:
        self.name = name
        self.limits = limits or Limits()
        self.mailbox = Mailbox(gate)
        self.forgotten: dict[str, str] = {}
        """Workers that will not come back, and why."""

    @override
    def receive(self, channels: Sequence[Channel], timeout: float | None = None) -> Event:
        return receive(self._mine(channels), self.mailbox, timeout)

    @override
    def attend(self, channels: Sequence[Channel], delivery: Delivery) -> Event | None:
        mine = self._mine(channels)

        def news() -> tuple[Event | None] | None:
            if delivery.done():
                return (None,)
            event = _oldest(mine)
            return None if event is None else (event,)

        (event,) = self.mailbox.wait_until(news, None, lambda: "no answer")
        return event

    def _mine(self, channels: Sequence[Channel]) -> list[CoreChannel]:
        mine = [channel for channel in channels if isinstance(channel, CoreChannel) and channel.mailbox is self.mailbox]
        if not channels or len(mine) != len(channels):
            raise ValueError(f"{self.name}: receive() takes channels of this endpoint, at least one")
        return mine

    @override
    def abort(self, reason: str) -> None:
        self.mailbox.abort(reason)

    def _check_open(self) -> None:
        if self.mailbox.aborted is not None:
            raise Aborted(self.mailbox.aborted)
