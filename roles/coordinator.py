"""The coordinator: says who works below whom, round by round. It counts no rounds of its own."""

import json
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import ClassVar, Final

from roles.context import Context
from roles.coordination import levels
from roles.coordination.assign import Candidates, assign
from roles.coordination.attendance import Attendance
from roles.errors import UnexpectedMessage
from roles.kinds import ASK, ASSIGN, BORROW, END, EXCLUDE, LOAD, LOST
from roles.lending.desk import Desk
from roles.lending.words import heard
from roles.presence import Stranded
from roles.role import Role, lost
from roles.tags import COORDINATE_WITH_LEAF as LEAF
from roles.tags import COORDINATE_WITH_MIDDLE as MIDDLE
from roles.tags import COORDINATE_WITH_TOP as TOP
from roles.tags import COORDINATE_WITH_TRAINER as TRAINER
from roles.tags import function
from roles.upward import ends_of, next_event
from transports.base import Arrived, Channel, ChannelSpec, Event, Joined
from transports.message import Message, Scalar

log = logging.getLogger(__name__)
More = Mapping[str, Mapping[str, Scalar]]
"""End -> further scalars that it is told."""
NOTHING: Final[More] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Question:
    """A root asks who takes part in `round`."""

    round: int
    root: str
    at: float
    """`time.monotonic()` of its arrival, seconds."""


class Coordinator(Role):
    """Answers the root's question "who takes part in round r" and tells everyone concerned.

    Each trainer that is there is mapped to one aggregator of the lowest level that is there and shares its group on a channel
    between the two, by the policy `job.coordinate.policy`; aggregators that got ends are mapped to those of the level above in
    the same way. An aggregator without ends is told so and sits the round out. Whoever comes back in the middle of a round is
    told again.

    In an asynchronous job nobody asks for a round. Idle trainers are lent to whichever aggregator of the lowest level asks, each
    to one at a time, until their update was added; see `roles.lending.book`.
    """

    LEVELS: ClassVar[tuple[str, ...]] = (MIDDLE, LEAF, TRAINER)
    """The functions that face those below the root, the highest level first and trainers last; unbound ones are left out."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._loads: dict[str, float] = {}
        self._excluded: dict[str, str] = {}
        self._question: Question | None = None
        self._over = False
        self._round = 0
        self._told: dict[str, Sequence[str]] = {}
        """What trainers and aggregators were told last."""
        self._parents: Mapping[str, Mapping[str, Scalar]] = {}
        """What aggregators below others were told of those."""
        self._desk: Desk | None = None
        """Of an asynchronous job."""

    def run(self) -> None:
        """Serve the root until it says that the job is over, then pass that on."""
        self.join()
        if self.context.strategy.traits.asynchronous:
            self._lend()
        else:
            self._answer()
        self.farewell([self.channel(tag) for tag in self._levels], self._attendance.gone(self._levels))

    def _answer(self) -> None:
        while not self._over:
            question = self._question
            if question is None:
                self._wait(None)
            elif self._everyone_for(question):
                self._question = None
                self.coordinate_round(question.round, question.root)

    def _lend(self) -> None:
        """Lend trainers to whoever asks, until the root says that the job is over."""
        asking, peers = self._levels[-2], self.context.peers
        trainers = self.channel(TRAINER).spec.ends
        meets = {
            asker: [trainer for trainer in trainers if levels.meet(peers[trainer].groups, peers[asker].groups)]
            for asker in self.channel(asking).spec.ends
        }
        attendance = self._attendance
        timeout, buffer = attendance.quorums[TRAINER].rejoin_timeout, self.context.strategy.buffer(root=True)
        repeat = buffer is not None and buffer.repeat
        desk = self._desk = Desk(meets, trainers, attendance.presence[TRAINER], timeout, repeat=repeat)
        while not self._over:
            while (event := self._event(0.0)) is not None:
                self._note(event)
            for told in desk.due(time.monotonic()):
                log.info("lent to %s: %s", told.asker, ", ".join(told.trainers) or "nobody, for now")
                self.perform(asking, self._round, {told.asker: told.trainers}, {told.asker: told.more})
            if not self._over:
                self._wait(desk.until())

    def needed_ends(self, channel: ChannelSpec, gone: int) -> int:
        """As many aggregators and trainers as a round needs; all roots."""
        if channel.name == self.context.tags[TOP][0]:
            return super().needed_ends(channel, gone)
        return self.context.settings.quorum_of(channel.name).needed(len(channel.ends), gone)

    def coordinate_round(self, round: int, root: str) -> None:
        """Map those who are there and tell them level by level, the trainers first and the root last."""
        self.context.reporter.entered(round)
        shortage = self._attendance.shortage(self._levels)
        placed = {} if shortage else self.placement(round)
        served = levels.ends_of_each(placed, [self.channel(tag).spec.ends for tag in self._levels[:-1]])
        trainers = {trainer: [placed[trainer]] if trainer in placed else [] for trainer in self.channel(TRAINER).spec.ends}
        self._round, self._told = round, {**served, **trainers}
        self._parents = {
            end: {"parent": placed[end]} for tag in self._levels[1:-1] for end in self.channel(tag).spec.ends if end in placed
        }
        for tag in reversed(self._levels):
            self._tell(tag, self.there(tag))
        highest = self.channel(self._levels[0]).spec.ends
        self.perform(TOP, round, {root: [end for end in highest if served[end]]}, shortage)

    def placement(self, round: int) -> dict[str, str]:
        """Trainer or aggregator -> whom it works below; aggregators of the highest level work below the root."""
        settings, trainers = self.context.settings, self.assignment(round)
        return levels.place(
            trainers,
            self._candidates()[:-1],
            policy=settings.coordinate,
            loads=self._loads,
            seed=settings.seed,
            round=round,
        )

    def assignment(self, round: int) -> dict[str, str]:
        """Trainer -> aggregator of the lowest level. Override for a policy of your own."""
        settings = self.context.settings
        return assign(settings.coordinate, self._candidates()[-1], loads=self._loads, seed=settings.seed, round=round)

    def there(self, tag: str) -> list[str]:
        """The ends that are connected now on the channel of a function, in the order of the plan."""
        return self._attendance.there(tag)

    def _candidates(self) -> list[Candidates]:
        able = [[end for end in self.there(tag) if end not in self._excluded] for tag in self._levels]
        return levels.candidates(able, {name: peer.groups for name, peer in self.context.peers.items()})

    def _tell(self, tag: str, ends: Sequence[str]) -> None:
        """Tell `ends` what was decided last."""
        more = {end: self._parents[end] for end in ends if end in self._parents}
        self.perform(tag, self._round, {end: self._told[end] for end in ends}, more)

    @function(TOP)
    def tell_top(self, channel: Channel, round: int, ends: Mapping[str, Sequence[str]], shortage: str = "") -> None:
        """Tell the root which aggregators of the level below take part, or what they are short of."""
        _tell(channel, round, ends, {end: {"reason": shortage} for end in ends} if shortage else NOTHING)

    @function(MIDDLE)
    def tell_middles(self, channel: Channel, round: int, ends: Mapping[str, Sequence[str]], more: More = NOTHING) -> None:
        """Tell each middle aggregator its ends."""
        _tell(channel, round, ends, more)

    @function(LEAF)
    def tell_leaves(self, channel: Channel, round: int, ends: Mapping[str, Sequence[str]], more: More = NOTHING) -> None:
        """Tell each leaf aggregator its ends, and as `parent` the aggregator that it works below."""
        _tell(channel, round, ends, more)

    @function(TRAINER)
    def tell_trainers(self, channel: Channel, round: int, ends: Mapping[str, Sequence[str]], more: More = NOTHING) -> None:
        """Tell each trainer its aggregator."""
        _tell(channel, round, ends, more)

    @cached_property
    def _levels(self) -> tuple[str, ...]:
        return tuple(tag for tag in self.LEVELS if self.bound(tag))

    @cached_property
    def _tags(self) -> tuple[str, ...]:
        return (TOP, *self._levels)

    @cached_property
    def _attendance(self) -> Attendance:
        channels = {tag: self.channel(tag) for tag in self._tags}
        quorums = {tag: self.context.settings.quorum_of(channel.spec.name) for tag, channel in channels.items()}
        return Attendance(channels, quorums)

    def _everyone_for(self, question: Question) -> bool:
        """Whether the question can be answered; if not, this has waited for one event."""
        while (event := self._event(0.0)) is not None:
            self._note(event)
        until = self._waits_until(question)
        if until is None or self._question is not question or self._over:
            return until is None and self._question is question and not self._over
        self._wait(until)
        return False

    def _waits_until(self, question: Question) -> float | None:
        """How long to wait for those who are away and needed, and for what trainers say of their data; None: no longer."""
        limits = self._attendance.limits(self._levels)
        if not set(self.there(TRAINER)) <= self._loads.keys():
            limits.append(question.at + self._attendance.quorums[TRAINER].join_timeout)
        now = time.monotonic()
        return min((limit for limit in limits if limit > now), default=None)

    def _wait(self, until: float | None) -> None:
        """Wait for one event, at most until then, and take it into account.

        Raises:
            PeerLost: the root is gone.
        """
        patience = self._attendance.presence[TOP].patience(time.monotonic(), self._attendance.quorums[TOP].rejoin_timeout)
        if isinstance(patience, Stranded):
            raise lost(patience.end, patience.reason)
        event = self._event(min((limit for limit in (until, patience) if limit is not None), default=None))
        if event is not None:
            self._note(event)

    def _event(self, until: float | None) -> Event | None:
        channels = [self.channel(tag) for tag in self._tags]
        return next_event(lambda timeout: self.context.endpoint.receive(channels, timeout), until)

    def _note(self, event: Event) -> None:
        tag = self._attendance.tag_of(event)
        self._attendance.note(event, tag)
        if isinstance(event, Arrived):
            self._note_message(event, tag)
        elif self._desk is not None:
            self._desk.note(event, time.monotonic())
        elif isinstance(event, Joined) and tag != TOP and event.end in self._told:
            self._tell(tag, [event.end])

    def _note_message(self, event: Arrived, tag: str) -> None:
        header = event.offer.header
        if header.kind == LOAD and tag == TRAINER:
            samples = header.scalars.get("samples")
            self._loads[event.end] = float(samples) if isinstance(samples, int | float) else 0.0
        elif header.kind == EXCLUDE:
            self._excluded[str(header.scalars.get("end"))] = str(header.scalars.get("reason"))
            if self._desk is not None:
                self._desk.exclude(str(header.scalars.get("end")))
        elif header.kind == BORROW and self._desk is not None and tag == self._levels[-2]:
            self._note_request(self._desk, event)
            return
        elif header.kind == LOST and self._desk is not None and tag == TOP:
            self._desk.lost(ends_of(header.scalars), time.monotonic())
            _tell(self.channel(TOP), header.round, {event.end: ()}, {event.end: heard(header.scalars)})
        elif header.kind == ASK and tag == TOP:
            self._question = Question(header.round, event.end, event.at)
        elif header.kind == END and tag == TOP:
            self._over = True
        else:
            _refuse(event, f"kind {header.kind!r} means nothing to a coordinator")
            return
        event.offer.accept()

    def _note_request(self, desk: Desk, event: Arrived) -> None:
        try:
            desk.requested(event.end, event.offer.header, time.monotonic())
        except UnexpectedMessage as error:
            _refuse(event, str(error))
            return
        event.offer.accept()
        if desk.round > self._round:
            self._round = desk.round
            self.context.reporter.entered(desk.round)


def _refuse(event: Arrived, reason: str) -> None:
    log.warning("%s sent %r to the coordinator, which is refused: %s", event.end, event.offer.header.kind, reason)
    event.offer.refuse(reason)


def _tell(channel: Channel, round: int, ends: Mapping[str, Sequence[str]], more: More) -> None:
    for end, others in ends.items():
        told = {"ends": json.dumps(list(others)), **more.get(end, {})}
        channel.send(Message(kind=ASSIGN, round=round, scalars=told), [end])
