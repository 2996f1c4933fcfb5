"""One member's side of a ring's channel: who is there, what the others say of themselves, what the leader orders, what arrives."""

import logging
import time
from collections import defaultdict, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, cast, get_args

from roles.errors import UnexpectedMessage
from roles.kinds import END
from roles.presence import Stranded
from roles.ring.kinds import ABANDON, ATTEMPT, BEGIN, BROKEN, COMMIT, FINISHED, MODEL, PIECE, STANDING, WANT
from roles.ring.lead import Broken, How, Lead
from roles.ring.standing import Standing, standing_of
from roles.ring.succession import Succession
from roles.upward import next_event
from transports.base import Arrived, Channel, Endpoint, Event, Joined, Left, Offer
from transports.errors import PeerLost
from transports.message import Header, Message, Scalar

log = logging.getLogger(__name__)
PREFETCHED = 4
"""Pieces whose transfer may run ahead of the one that is added."""
ORDERS = (BEGIN, ATTEMPT, COMMIT, ABANDON, MODEL)


@dataclass(frozen=True, slots=True)
class Beside:
    """Other channels that a member listens to while it waits for the ring."""

    channels: Sequence[Channel] = ()
    note: Callable[[Event], object] = field(default=lambda event: None)  # noqa: ARG005 - there are none
    interrupts: Callable[[], bool] = field(default=lambda: False)
    """Whether something came there that makes the wait pointless."""


class Hears(Protocol):
    """Answers members, whatever this one is waiting for."""

    def waits(self, end: str, standing: Standing) -> None:
        """`end` waits for the mean of an update."""

    def wants(self, end: str) -> None:
        """`end` leads, and needs the model of this member."""


class Circle:
    """Keeps account of a ring's channel. All waits listen to everything.

    Args:
        endpoint: of this worker.
        channel: of the ring.
        rejoin_timeout: seconds for which a leader that is away is waited for.
        beside: what else to listen to.
        hears: is told of what needs an answer at once.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        channel: Channel,
        rejoin_timeout: float,
        beside: Beside,
        hears: "Hears",
    ) -> None:
        self.channel = channel
        self.me = endpoint.name
        self.rejoin_timeout = rejoin_timeout
        self.standing = Standing()
        self.standings: dict[str, Standing] = {}
        """What those said of themselves who take this member for the leader."""
        self.succession = Succession(self.me, channel.spec.ends, time.monotonic())
        self.lead: Lead | None = None
        """The round that this member leads, while it does."""
        self.over = False
        """Whether the leader has announced the end of the job."""
        self._endpoint = endpoint
        self._beside = beside
        self._hears = hears
        self._orders: deque[tuple[str, Offer]] = deque()
        self._pieces: defaultdict[str, deque[Offer]] = defaultdict(deque)

    @property
    def present(self) -> set[str]:
        """The members that are connected."""
        return self.succession.presence.present

    @property
    def interrupted(self) -> bool:
        """Whether waiting for the ring is pointless: the job is over, or something has come beside it."""
        return self.over or self._beside.interrupts()

    def stand(self, **changes: Any) -> None:
        """Change what this member says of itself, take into account what has happened meanwhile, and say it."""
        self.standing = replace(self.standing, **changes)
        self.drain()
        self._say()

    def send(self, kind: str, round: int, to: Sequence[str], **scalars: Scalar) -> None:
        """Send a message without tensors to those of `to` who are there."""
        self.channel.send(Message(kind=kind, round=round, scalars=scalars), [end for end in to if end in self.present])

    def drain(self) -> None:
        """Take everything into account that has happened."""
        while self.pump(0.0):
            pass

    def pump(self, until: float | None) -> bool:
        """Wait for one event, at most until a time (None: as long as it takes); whether one came."""
        event = next_event(self._receive, until)
        if event is not None:
            self.note(event)
        return event is not None

    def _receive(self, timeout: float | None) -> Event:
        return self._endpoint.receive([self.channel, *self._beside.channels], timeout)

    def await_leader(self) -> None:
        """Wait for something to happen, not longer than a leader that is away may stay so.

        Raises:
            PeerLost: it was not back in time.
        """
        patience = None if self.succession.leads else self.succession.patience(time.monotonic(), self.rejoin_timeout)
        if isinstance(patience, Stranded):
            raise PeerLost(patience.end, patience.reason)
        self.pump(patience)

    def next_order(self) -> tuple[str, Offer] | None:
        """The oldest order that has come, and who gave it."""
        return self._orders.popleft() if self._orders else None

    def give_back(self, end: str, order: Offer) -> None:
        """Leave an order for later."""
        self._orders.appendleft((end, order))

    def overrules(self, number: int) -> bool:
        """Whether an order waits that ends attempt `number`: there may be others, which came twice or late."""
        return any(end == self.succession.leader and self._ends(offer.header, number) for end, offer in self._orders)

    def _ends(self, header: Header, number: int) -> bool:
        mine = header.scalars.get("trained") == self.standing.trained
        if header.kind == ATTEMPT:
            return int(header.scalars["number"]) > number
        return mine if header.kind in (COMMIT, ABANDON) else header.kind == BEGIN and not mine

    def next_piece(self, end: str, number: int) -> Offer | None:
        """The next piece of attempt `number` that `end` offers; those of earlier attempts are turned away."""
        pieces = self._pieces[end]
        while pieces and int(pieces[0].header.scalars["number"]) < number:
            pieces.popleft().refuse(f"attempt {number} is going on")
        if not pieces or int(pieces[0].header.scalars["number"]) > number:
            return None
        for offer in list(pieces)[:PREFETCHED]:
            offer.prefetch()
        return pieces.popleft()

    def note(self, event: Event) -> None:
        """Take one event into account."""
        if event.channel != self.channel.spec.name:
            self._beside.note(event)
        elif isinstance(event, Joined):
            self.succession.joined(event.end)
            self.standings.pop(event.end, None)
            if event.end == self.succession.leader:
                self._say()
        elif isinstance(event, Left):
            self._note_left(event)
        else:
            self._note_arrived(event)

    def _note_left(self, event: Left) -> None:
        final, now = event.final or event.clean, time.monotonic()
        self._pieces.pop(event.end, None)
        self.standings.pop(event.end, None)
        if self.lead is not None:
            self.lead.left(event.end, event.reason, final=final, now=now)
        if self.succession.left(event.end, event.reason, final=final, now=now):
            log.warning("%s is gone (%s): %s leads the ring", event.end, event.reason, self.succession.leader)
            self._say()

    def _note_arrived(self, event: Arrived) -> None:
        end, offer, header = event.end, event.offer, event.offer.header
        if header.kind == PIECE:
            self._pieces[end].append(offer)
            return
        if header.kind in ORDERS:
            if header.kind == ATTEMPT:
                # Also where it is not followed any more: the number is taken.
                self.standing = replace(self.standing, attempt=max(self.standing.attempt, int(header.scalars["number"])))
            self._orders.append((end, offer))
            return
        offer.accept()
        if header.kind == END:
            self.over = True
        elif header.kind == WANT:
            self._hears.wants(end)
        elif header.kind == STANDING:
            self._note_standing(end, standing_of(end, header.scalars), event.at)
        elif header.kind in (FINISHED, BROKEN):
            self._note_report(end, header)
        else:
            raise UnexpectedMessage(f"{end} sent {header.kind!r}, which is not expected in a ring")

    def _note_standing(self, end: str, standing: Standing, now: float) -> None:
        self.standings[end] = standing
        if self.lead is not None:
            self.lead.stands(end, standing, now)
        if standing.waits:
            self._hears.waits(end, standing)

    def _note_report(self, end: str, header: Header) -> None:
        if self.lead is None:
            return
        if header.kind == FINISHED:
            self.lead.finished(end, int(header.scalars["number"]))
        else:
            self.lead.broken(end, _broken(end, header.scalars), time.monotonic())

    def _say(self) -> None:
        if self.succession.leads:
            if self.lead is not None:
                self.lead.stands(self.me, self.standing, time.monotonic())
        elif self.succession.leader in self.present:
            scalars = self.standing.scalars()
            self.channel.send(Message(kind=STANDING, round=self.standing.round, scalars=scalars), [self.succession.leader])


def _broken(end: str, scalars: Mapping[str, Scalar]) -> Broken:
    how = scalars.get("how")
    if how not in get_args(How):
        raise UnexpectedMessage(f"{end} says that an attempt broke by {how!r}")
    return Broken(int(scalars["number"]), str(scalars.get("end")), cast("How", how), str(scalars.get("reason")))
