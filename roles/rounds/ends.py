"""What an aggregator knows of its ends from round to round: who is there, who owes an answer, who is excluded."""

import logging
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from roles.kinds import TICKET, UPDATE, VIRTUAL_TIME, ticket_of
from roles.presence import Presence
from roles.settings import Quorum
from transports.base import Channel, Event, Joined, Left, Offer
from transports.message import Header, Message

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Asked:
    """A model that was handed out and not answered yet."""

    round: int
    ticket: str | None
    at: float = field(compare=False)
    """When, by the clock that the job runs by, in seconds."""

    @classmethod
    def by(cls, model: Message) -> "Asked":
        """What somebody owes who is sent `model` now."""
        at = model.scalars.get(VIRTUAL_TIME)
        return cls(model.round, ticket_of(model.scalars), float(at) if isinstance(at, int | float) else time.monotonic())


class Ends:
    """The ends of one aggregator.

    An end that still owes the answer to an earlier model is not sent another one: models would pile up behind it.

    Args:
        names: all ends, in the order of the plan.
        quorum: what the policy says of them.
    """

    def __init__(self, names: Iterable[str], quorum: Quorum) -> None:
        self.presence = Presence(names, time.monotonic())
        self.excluded: dict[str, str] = {}
        self.rejected: Counter[str] = Counter()
        """End -> how many of its updates were refused since that was last reported."""
        self._asked: dict[str, Asked] = {}
        self._bad: Counter[str] = Counter()
        self._max_bad = quorum.max_bad_updates

    def joined(self, end: str) -> None:
        """`end` is connected, for the first time or again. It owes nothing: what it was sent may be lost."""
        self.presence.joined(end)
        self._asked.pop(end, None)

    def left(self, event: Left) -> None:
        """An end is not connected any more."""
        self.presence.left(event.end, event.reason, final=event.final or event.clean, now=time.monotonic())
        self._asked.pop(event.end, None)

    def free(self, end: str) -> bool:
        """Whether `end` can be sent a model now."""
        return end in self.presence.present and end not in self._asked and end not in self.excluded

    def ask(self, channel: Channel, model: Message, ends: Iterable[str]) -> None:
        """Send `model` to `ends`, packed once."""
        ends = list(ends)
        self._asked |= dict.fromkeys(ends, Asked.by(model))
        channel.send(model, ends)

    def suppose(self, end: str, asked: Asked) -> None:
        """`end` was sent a model by other means than `ask`, if it can have been."""
        if self.free(end):
            self._asked[end] = asked

    def answers(self, end: str, header: Header) -> Asked | None:
        """The model that a message of `end` answers, which is then no longer owed; None if it answers none.

        One without a ticket answers what `end` was asked last, unless it is of an earlier round.
        """
        asked = self._asked.get(end)
        if asked is None:
            return None
        fits = ticket_of(header.scalars) == asked.ticket if TICKET in header.scalars else header.round >= asked.round
        return self._asked.pop(end) if fits else None

    def good(self, end: str) -> None:
        """An update of `end` was added."""
        self._bad.pop(end, None)

    def bad(self, end: str, reason: str) -> str:
        """An update of `end` was refused for what is in it; returns what to tell it. It may be excluded by this."""
        self._bad[end] += 1
        if self._max_bad is None or self._bad[end] < self._max_bad:
            return reason
        times = "its update was refused" if self._bad[end] == 1 else f"{self._bad[end]} of its updates in a row were refused"
        self.excluded[end] = f"excluded: {times}, the last: {reason}"
        return self.excluded[end]

    def report(self) -> Mapping[str, float]:
        """What was refused since the last report, as metrics."""
        rejected = self.rejected.total()
        self.rejected.clear()
        return {"rejected_updates": rejected} if rejected else {}

    def turn_away(self, offer: Offer, end: str, reason: str) -> None:
        """Refuse an update, count it and say so."""
        offer.refuse(reason)
        self.rejected[end] += 1
        log.warning("the update of %s of round %d was refused: %s", end, offer.header.round, reason)

    def note_between(self, event: Event) -> None:
        """Take one event into account while no round is open: whoever answers now is too late."""
        if isinstance(event, Joined):
            self.joined(event.end)
        elif isinstance(event, Left):
            self.left(event)
        else:
            self.answers(event.end, event.offer.header)
            if event.offer.header.kind == UPDATE:
                self.turn_away(event.offer, event.end, self.excluded.get(event.end, f"round {event.offer.header.round} is over"))
            else:
                event.offer.accept()
