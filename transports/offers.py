"""Messages on their way, as every transport sees them: offers at the receiver, deliveries at the sender."""

from abc import abstractmethod
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from typing_extensions import override

from transports.base import Delivery, Offer, Outcome
from transports.errors import PeerLost, TransportError
from transports.mailbox import Mailbox, listed
from transports.message import Header, Message, Payload

if TYPE_CHECKING:
    from transports.core import CoreChannel

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

    @property
    def transferred(self) -> bool:
        """Whether the whole payload is here."""
        return self._payload is not None

    def await_part(self, ready: deque[Payload], timeout: float | None) -> Payload:
        """Wait for the next part of a payload that is transferred in parts: the first of `ready`, which others fill.

        Raises: as `fetch`.
        """

        def part() -> Payload | None:
            if ready:
                return ready.popleft()
            self._check_hope()
            return None

        return self._mailbox.wait_until(part, timeout, lambda: f"a part of {self} was not transferred")

    def _result(self) -> Payload | None:
        if self._payload is None:
            self._check_hope()
        return self._payload

    def _check_hope(self) -> None:
        """Raise what keeps the payload from coming, if anything does."""
        if self._error is not None:
            raise self._error
        if self._answered is not None:
            raise ValueError(f"{self} was {self._answered.state} before it was fetched")

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
        """Hand over the payload to whoever fetches; does nothing if it was said that it will not come."""
        with self._mailbox.changing():
            if self._error is None:
                self._payload = payload

    def fail(self, error: TransportError) -> None:
        """Say that nothing will come any more; who has the whole payload keeps it."""
        with self._mailbox.changing():
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
