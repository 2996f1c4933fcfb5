"""The all-reduce of a round at one member: it leads or follows, until the sum of all who take part is there and counts."""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from roles.errors import RoundFailed
from roles.ring.circle import Beside, Circle
from roles.ring.exchange import Exchange
from roles.ring.kinds import ABANDON, ATTEMPT, BEGIN, BROKEN, COMMIT, FINISHED, MODEL
from roles.ring.lead import Attempt, Broken, Call, Lead
from roles.ring.standing import Counts, Standing, count_in, counts_of, counts_of_update, together
from roles.rounds.average import WEIGHTS, WeightedSum
from roles.rounds.collect import Collect, Short, Wait
from roles.settings import Quorum
from transports.base import Channel, Endpoint, Offer
from transports.message import Message, Scalar


@dataclass(frozen=True, slots=True)
class Reduced:
    """The end of a round's all-reduce."""

    total: WeightedSum | None
    """The sum of all who took part; None: it is known to count, and this member does not have it."""
    by: str
    """Who leads the round, and hands the sum up where there is somebody above."""


@dataclass(frozen=True, slots=True)
class _Settled:
    """A round whose sum counts."""

    trained: str
    by: str


class Server(Protocol):
    """What members do for each other where no aggregator hands out models."""

    def call(self, ends: Sequence[str]) -> None:
        """Let these members train the round."""

    def take_over(self, trained: str) -> bool:
        """Begin to lead, on the way to the sum of `trained`; whether that round is over elsewhere."""

    def wants(self, end: str) -> None:
        """Send the model of this member to `end`, who leads."""


class Ring:
    """One member of a ring. Between two calls of `reduce` it may be told of events by `note`.

    Args:
        endpoint: of this worker.
        channel: of the ring.
        quorum: the policy; the members count as ends, the leader too.
        names: of the numbers in updates that are added up.
        beside: what else to listen to while it waits.
        server: where members train when they are called; None: models come from elsewhere.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        channel: Channel,
        quorum: Quorum,
        names: Sequence[str] = (),
        *,
        beside: Beside | None = None,
        server: Server | None = None,
    ) -> None:
        self.circle = Circle(endpoint, channel, quorum.rejoin_timeout, beside or Beside(), self)
        self.sent = 0
        """Bytes of pieces that were sent in the round."""
        self.missing: dict[str, str] = {}
        """Who was left out of the last round that this member led, and why."""
        self._quorum = quorum
        self._names = tuple(names)
        self._server = server
        self._update: Message | None = None
        self._settled: _Settled | None = None
        self._held: tuple[int, WeightedSum] | None = None
        """The newest attempt that this member has the sum of."""
        self._tried = 0
        """The number of the newest attempt that this member took part in."""

    def collect(self) -> Collect:
        """The policy, applied to all members."""
        members, quorum = self.circle.succession.members, self._quorum
        needed = None if quorum.tolerant else quorum.needed(len(members), 0)
        return Collect(members, needed=needed, deadline=quorum.deadline, rejoin_timeout=quorum.rejoin_timeout)

    def open(self, trained: str) -> Lead:
        """Lead a round from here on."""
        circle, now = self.circle, time.monotonic()
        lead = Lead(circle.me, self.collect(), trained, calls=self._server is not None, number=circle.standing.attempt)
        presence = circle.succession.presence
        for end, reason in presence.gone.items():
            lead.left(end, reason, final=True, now=now)
        for end, away in presence.away.items():
            lead.left(end, away.reason, final=False, now=away.since)
        for end, standing in [*circle.standings.items(), (circle.me, circle.standing)]:
            lead.stands(end, standing, now)
        circle.lead = lead
        return lead

    def reduce(self, trained: str, round: int, update: Message, fault: str = "") -> Reduced | None:
        """Sum up `update` (groups of tensors, scalars) with those of the others that were trained from the same model.

        Args:
            trained: what ties it to that model.
            round: for the record.
            update: must not change before the next call.
            fault: why it must not count; empty: it may.

        Returns:
            None if the round is over, or goes on with another model.

        Raises:
            RoundFailed: too few can take part; names who cannot, and why.
            PeerLost: the leader is away for too long.
        """
        circle = self.circle
        self._update, self._settled, self._held, self.sent = update, None, None, 0
        circle.stand(trained=trained, counts=counts_of_update(update.scalars), fault=fault, waits=True)
        try:
            while not circle.interrupted:
                step = self._lead(trained, round) if circle.succession.leads else self._follow(trained)
                if isinstance(step, Reduced):
                    self._settled = _Settled(trained, step.by)
                    return step
                if step:
                    break
        finally:
            circle.lead = None
            circle.standing = replace(circle.standing, waits=False)
        return None

    def serve(self) -> None:
        """Do what a leader asks for that still needs the last update, while this member waits for something else."""
        while (order := self.circle.next_order()) is not None:
            end, offer = order
            offer.accept()
            if offer.header.kind == ATTEMPT and end == self.circle.succession.leader:
                self._take_part(end, offer)

    def waits(self, end: str, standing: Standing) -> None:
        """Tell a member that waits what became of a round that is over here."""
        over, send = self._settled, self.circle.send
        if over is None or standing.trained != over.trained:
            return
        send(COMMIT, standing.round, [end], trained=over.trained, number=0, by=over.by)

    def wants(self, end: str) -> None:
        """Send the model of this member to `end`, who leads."""
        if self._server is not None:
            self._server.wants(end)

    # -- at the leader; True: the round is over here, False: look again who leads

    def _lead(self, trained: str, round: int) -> Reduced | bool:
        circle = self.circle
        if circle.lead is None and self._server is not None and self._server.take_over(trained):
            return True
        lead = circle.lead or self.open(trained)
        step = lead.next(time.monotonic())
        if isinstance(step, Wait):
            circle.pump(step.until)
        elif isinstance(step, Call):
            if self._server is not None:
                self._server.call(step.ends)
        elif isinstance(step, Attempt):
            self._attempt(lead, step, trained, round)
        elif isinstance(step, Short):
            self._tell(ABANDON, trained, round, reason=step.reason, fault=not step.lost)
            raise RoundFailed(f"round {round}: {step.reason}", lost=step.lost)
        elif self._held is not None:
            self.missing = dict(step.missing)
            self._tell(COMMIT, trained, round, number=step.number, by=circle.me)
            return Reduced(self._held[1], circle.me)
        return False

    def _tell(self, kind: str, trained: str, round: int, **scalars: Scalar) -> None:
        self.circle.send(kind, round, list(self.circle.standings), trained=trained, **scalars)

    def _attempt(self, lead: Lead, step: Attempt, trained: str, round: int) -> None:
        circle = self.circle
        standings = {**circle.standings, circle.me: circle.standing}
        counts = together([standings[end].counts for end in step.counted])
        circle.standing = replace(circle.standing, attempt=step.number)
        others = [end for end in step.order if end != circle.me]
        said: dict[str, Scalar] = {"order": json.dumps(step.order), "counts": json.dumps(counts)}
        circle.send(ATTEMPT, round, others, number=step.number, trained=trained, **said)

        def over() -> bool:
            return lead.attempt != step.number or circle.interrupted or not circle.succession.leads

        broken = self._exchange(step.number, round, step.order, counts, over, counted=circle.me in step.counted)
        if broken is not None:
            lead.broken(circle.me, broken, time.monotonic())
        elif self._held is not None:
            lead.finished(circle.me, step.number)

    # -- at the others

    def _follow(self, trained: str) -> Reduced | bool:
        circle = self.circle
        circle.lead = None
        order = circle.next_order()
        if order is None:
            circle.await_leader()
            return False
        end, offer = order
        scalars, kind, leads = offer.header.scalars, offer.header.kind, end == circle.succession.leader
        if kind == BEGIN and leads and scalars.get("trained") != trained:
            circle.give_back(end, offer)
            return True
        if kind in (BEGIN, MODEL):
            offer.refuse(f"what {circle.me} needs, it has")
            return False
        offer.accept()
        if scalars.get("trained") != trained:
            return False
        if kind == ATTEMPT and leads:
            self._take_part(end, offer)
        elif kind == COMMIT:
            held = self._held is not None and self._held[0] == scalars["number"]
            return Reduced(self._held[1] if self._held is not None and held else None, str(scalars["by"]))
        elif kind == ABANDON:
            raise RoundFailed(str(scalars["reason"]), lost=not scalars["fault"])
        return False

    def _take_part(self, leader: str, offer: Offer) -> None:
        """Take part in an attempt, and tell the leader how it ended."""
        circle, scalars, round = self.circle, offer.header.scalars, offer.header.round
        number, order = int(scalars["number"]), tuple(json.loads(str(scalars["order"])))
        if scalars.get("trained") != circle.standing.trained or circle.me not in order or number <= self._tried:
            return
        self._tried = number

        def over() -> bool:
            leaderless = circle.succession.leader != leader or leader not in circle.present
            return circle.overrules(number) or circle.interrupted or leaderless

        broken = self._exchange(number, round, order, counts_of(scalars["counts"]), over)
        if broken is not None:
            said: dict[str, Scalar] = {"end": broken.end, "how": broken.how, "reason": broken.reason}
            circle.send(BROKEN, round, [leader], number=number, **said)
        elif self._held is not None:
            circle.send(FINISHED, round, [leader], number=number)

    def _exchange(
        self, number: int, round: int, order: Sequence[str], counts: Counts, over: Callable[[], bool], *, counted: bool = True
    ) -> Broken | None:
        """Take part in one attempt. If the sum comes of it, it is held from then on."""
        update, self._held = self._update, None
        assert update is not None, "an attempt without an update"
        specs = update.specs
        total = WeightedSum(
            specs.get(WEIGHTS, {}), more={group: each for group, each in specs.items() if group != WEIGHTS}, names=self._names
        )
        total.add(update.groups, {**update.scalars, "merged": False})
        if not counted:
            total.memory.buffer.zero_()
        exchange = Exchange(self.circle, total, order, number=number, round=round, over=over)
        broken = exchange.run()
        self.sent += exchange.sent
        if broken is None and exchange.complete:
            count_in(total, counts)
            self._held = (number, total)
        return broken
