"""What every transport shares: membership of a channel, offers, deliveries, waits. A transport adds how bytes move."""

import time
from abc import abstractmethod
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

from typing_extensions import override

from transports.base import Arrived, Channel, ChannelSpec, Delivery, Endpoint, Event, Gate, Joined, Left, Limits, Offer, Outcome
from transports.errors import Aborted, PeerLost, TransportError
from transports.mailbox import Mailbox, listed
from transports.message import Header, Message, Payload

ACCEPTED = Outcome("accepted")


class CoreOffer(Offer):
    """An offer that remembers how far it is. A transport implements `_start` and `_answer`, and calls `complete` or `fail`."""

    def __init__(self, header: Header, channel: "CoreChannel", end: str) -> None:
        self.header = header
        self.end = end
        self.channel = channel
        self._mailbox = channel.mailbox
        self._started = False
        self._payload: Payload | None = None
        self._message: Message | None = None
        self._error: TransportError | None = None
        self._answered: Outcome | None = None

    @abstractmethod
    def _start(self) -> None:
        """Begin the transfer; called once at most, without the lock."""

    @abstractmethod
    def _answer(self, outcome: Outcome) -> None:
        """Tell the sender; called once at most, without the lock."""

    @override
    def prefetch(self) -> None:
        with self._mailbox.reading():
            begin = not (self._started or self._answered or self._error)
            self._started |= begin
        if begin:
            self._start()

    @override
    def fetch(self, timeout: float | None = None) -> Message:
        self.prefetch()
        payload = self._mailbox.wait_until(self._result, timeout, lambda: f"{self} was not transferred")
        if self._message is None:
            self._message = Message.over(self.header, payload)
        return self._message

    def _result(self) -> Payload | None:
        if self._payload is not None:
            return self._payload
        if self._error is not None:
            raise self._error
        if self._answered is not None:
            raise ValueError(f"{self} was {self._answered.state} before it was fetched")
        return None

    @override
    def accept(self) -> None:
        self._finish(ACCEPTED)

    @override
    def refuse(self, reason: str) -> None:
        self._finish(Outcome("refused", reason))

    def _finish(self, outcome: Outcome) -> None:
        with self._mailbox.changing():
            first = self._answered is None
            self._answered = self._answered or outcome
        if first:
            self._answer(outcome)

    def complete(self, payload: Payload) -> None:
        """Hand over the payload to whoever fetches."""
        with self._mailbox.changing():
            self._payload = payload

    def fail(self, error: TransportError) -> None:
        """Say that the payload will not come; does nothing if it has."""
        with self._mailbox.changing():
            if self._payload is None:
                self._error = self._error or error

    def lose(self, reason: str) -> None:
        """Say that the sender is gone."""
        self.fail(PeerLost(self.end, reason))

    def __repr__(self) -> str:
        return f"{self.header.kind!r} of round {self.header.round} from {self.end} on {self.channel}"


def _nothing() -> None:
    pass


class CoreDelivery(Delivery):
    """Collects the outcome at each end."""

    def __init__(self, mailbox: Mailbox, subject: str, ends: Sequence[str], finished: Callable[[], None]) -> None:
        self._mailbox = mailbox
        self._subject = subject
        self._ends = tuple(ends)
        self._finished = finished
        self._outcomes: dict[str, Outcome] = {}
        if not ends:
            self._finished = _nothing
            finished()

    def settle(self, end: str, outcome: Outcome) -> None:
        """Note what became of the message at `end`; the first outcome stays."""
        with self._mailbox.changing():
            news = end not in self._outcomes
            self._outcomes.setdefault(end, outcome)
            last = news and len(self._outcomes) == len(self._ends)
        if last:
            finished, self._finished = self._finished, _nothing
            finished()

    @override
    def done(self) -> bool:
        with self._mailbox.reading():
            return len(self._outcomes) == len(self._ends)

    @override
    def wait(self, timeout: float | None = None) -> Mapping[str, Outcome]:
        return self._mailbox.wait_until(self._all, timeout, self._missing)

    def _all(self) -> Mapping[str, Outcome] | None:
        return {end: self._outcomes[end] for end in self._ends} if len(self._outcomes) == len(self._ends) else None

    def _missing(self) -> str:
        return f"{self._subject} was not answered by {listed([end for end in self._ends if end not in self._outcomes])}"


class CoreChannel(Channel):
    """A channel that knows who is there and what happened, in order. A transport implements `_dispatch`."""

    def __init__(self, spec: ChannelSpec, mailbox: Mailbox) -> None:
        self.spec = spec
        self.mailbox = mailbox
        self.events: deque[tuple[int, Event]] = deque()
        self._joined: dict[str, None] = {}
        self._gone: dict[str, str] = {}
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
            return True if all(end in self._joined for end in wanted) else None

        def missing() -> str:
            names = [f"{e} (left: {self._gone[e]})" if e in self._gone else e for e in wanted if e not in self._joined]
            return f"on {self}, of {len(wanted)} ends these have not joined: {listed(names)}"

        self.mailbox.wait_until(everyone, timeout, missing)

    def note_joined(self, end: str) -> None:
        """Note that `end` is connected, for the first time or again."""
        with self.mailbox.changing():
            self._joined[end] = None
            self._gone.pop(end, None)
            self._hopeless.pop(end, None)
            self.events.append((self.mailbox.stamp(), Joined(self.spec.name, end)))

    def note_left(self, end: str, reason: str, *, clean: bool, error: TransportError | None = None) -> None:
        """Note that `end` is gone; with `error` there is no use in waiting for it."""
        with self.mailbox.changing():
            self._joined.pop(end, None)
            self._gone[end] = reason
            if error is not None:
                self._hopeless[end] = error
            self.events.append((self.mailbox.stamp(), Left(self.spec.name, end, reason, clean)))

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

    def oldest() -> tuple[Event] | None:
        waiting = [channel.events for channel in channels if channel.events]
        if not waiting:
            return None
        _, event = min(waiting, key=lambda events: events[0][0]).popleft()
        return (event,)

    def missing() -> str:
        return "nothing happened on " + "; ".join(f"{channel} with {listed(channel.spec.ends)}" for channel in channels)

    (event,) = mailbox.wait_until(oldest, timeout, missing)
    return event


class CoreEndpoint(Endpoint):
    """An endpoint with its mailbox and channels."""

    def __init__(self, name: str, gate: Gate | None, limits: Limits | None) -> None:
        self.name = name
        self.limits = limits or Limits()
        self.mailbox = Mailbox(gate)

    @override
    def receive(self, channels: Sequence[Channel], timeout: float | None = None) -> Event:
        mine = [channel for channel in channels if isinstance(channel, CoreChannel) and channel.mailbox is self.mailbox]
        if not channels or len(mine) != len(channels):
            raise ValueError(f"{self.name}: receive() takes channels of this endpoint, at least one")
        return receive(mine, self.mailbox, timeout)

    @override
    def abort(self, reason: str) -> None:
        self.mailbox.abort(reason)

    def _check_open(self) -> None:
        if self.mailbox.aborted is not None:
            raise Aborted(self.mailbox.aborted)
