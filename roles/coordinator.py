"""The coordinator: maps trainers to middle aggregators, round by round. It counts no rounds of its own."""

import json
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from roles.assign import assign
from roles.context import Context
from roles.kinds import ASK, ASSIGN, END, EXCLUDE, LOAD
from roles.presence import Presence, Stranded
from roles.role import Role, lost
from roles.settings import Quorum
from roles.tags import function
from roles.upward import next_event
from transports.base import Arrived, Channel, ChannelSpec, Event, Joined, Left
from transports.message import Message

log = logging.getLogger(__name__)
TOP, MIDDLE, TRAINER = "coordinateWithTopAgg", "coordinateWithMidAgg", "coordinateWithTrainer"


@dataclass(frozen=True, slots=True)
class Question:
    """A root asks who takes part in `round`."""

    round: int
    root: str
    at: float
    """`time.monotonic()` of its arrival, seconds."""


class Coordinator(Role):
    """Answers the root's question "who takes part in round r" and tells everyone concerned.

    Each trainer that is there is mapped to one middle aggregator that is there and shares its group on a channel between
    the two, by the policy `job.coordinate.policy`. A middle aggregator without trainers is told so and sits the round out.
    Whoever comes back in the middle of a round is told again.
    """

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._loads: dict[str, float] = {}
        self._excluded: dict[str, str] = {}
        self._question: Question | None = None
        self._over = False
        self._round = 0
        self._told: dict[str, Sequence[str]] = {}
        """What trainers and middle aggregators were told last."""

    def run(self) -> None:
        """Serve the root until it says that the job is over, then pass that on."""
        self.join()
        while not self._over:
            question = self._question
            if question is None:
                self._wait(None)
            elif self._everyone_for(question):
                self._question = None
                self.coordinate_round(question.round, question.root)
        gone = [end for tag in (MIDDLE, TRAINER) for end in self._presence[tag].gone]
        self.farewell([self.channel(MIDDLE), self.channel(TRAINER)], gone)

    def needed_ends(self, channel: ChannelSpec, gone: int) -> int:
        """As many middle aggregators and trainers as a round needs; all roots."""
        if channel.name == self.context.tags[TOP][0]:
            return super().needed_ends(channel, gone)
        return self.context.settings.quorum_of(channel.name).needed(len(channel.ends), gone)

    def coordinate_round(self, round: int, root: str) -> None:
        """Map the trainers that are there and tell trainers, middle aggregators and the root, in this order."""
        self.context.reporter.entered(round)
        shortage = self._shortage()
        mapping = {} if shortage else self.assignment(round)
        middles = self.channel(MIDDLE).spec.ends
        served = {middle: [trainer for trainer, of in mapping.items() if of == middle] for middle in middles}
        trainers = {trainer: [mapping[trainer]] if trainer in mapping else [] for trainer in self.channel(TRAINER).spec.ends}
        self._round, self._told = round, {**served, **trainers}
        self.perform(TRAINER, round, {trainer: trainers[trainer] for trainer in self._there(TRAINER)})
        self.perform(MIDDLE, round, {middle: served[middle] for middle in self._there(MIDDLE)})
        self.perform(TOP, round, {root: [middle for middle in middles if served[middle]]}, shortage)

    def assignment(self, round: int) -> dict[str, str]:
        """Trainer -> middle aggregator. Override for a policy of your own."""
        middles, peers = [middle for middle in self._there(MIDDLE) if middle not in self._excluded], self.context.peers
        candidates = {
            trainer: [middle for middle in middles if _meet(peers[trainer].groups, peers[middle].groups)]
            for trainer in self._there(TRAINER)
            if trainer not in self._excluded
        }
        settings = self.context.settings
        return assign(settings.coordinate, candidates, loads=self._loads, seed=settings.seed, round=round)

    @function(TOP)
    def tell_top(self, channel: Channel, round: int, ends: Mapping[str, Sequence[str]], shortage: str = "") -> None:
        """Tell the root which middle aggregators take part, or what they are short of."""
        _tell(channel, round, ends, **({"reason": shortage} if shortage else {}))

    @function(MIDDLE)
    def tell_middles(self, channel: Channel, round: int, ends: Mapping[str, Sequence[str]]) -> None:
        """Tell each middle aggregator its trainers."""
        _tell(channel, round, ends)

    @function(TRAINER)
    def tell_trainers(self, channel: Channel, round: int, ends: Mapping[str, Sequence[str]]) -> None:
        """Tell each trainer its middle aggregator."""
        _tell(channel, round, ends)

    @cached_property
    def _presence(self) -> dict[str, Presence]:
        return {tag: Presence(self.channel(tag).spec.ends, time.monotonic()) for tag in (TOP, MIDDLE, TRAINER)}

    def _there(self, tag: str) -> list[str]:
        """The ends connected now, in the order of the plan."""
        joined = self.channel(tag).joined
        return [end for end in self.channel(tag).spec.ends if end in joined]

    def _quorum(self, tag: str) -> Quorum:
        return self.context.settings.quorum_of(self.channel(tag).spec.name)

    def _lacks(self, tag: str) -> int:
        """How many ends are missing."""
        presence = self._presence[tag]
        return self._quorum(tag).needed(len(self.channel(tag).spec.ends), len(presence.gone)) - len(presence.present)

    def _shortage(self) -> str:
        """Who is missing without whom there can be no round; empty if there can."""
        texts = []
        for tag in (MIDDLE, TRAINER):
            presence = self._presence[tag]
            if presence.present and (self._quorum(tag).tolerant or self._lacks(tag) <= 0):
                continue
            reasons = presence.gone | {end: away.reason for end, away in presence.away.items()}
            texts.append("; ".join(f"{end}: {reason}" for end, reason in reasons.items()))
        return f"too few workers are there ({'; '.join(texts)})" if texts else ""

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
        limits = []
        for tag in (MIDDLE, TRAINER):
            if self._lacks(tag) > 0:
                timeout = self._quorum(tag).rejoin_timeout
                limits += [away.since + timeout for away in self._presence[tag].away.values()]
        if not set(self._there(TRAINER)) <= self._loads.keys():
            limits.append(question.at + self._quorum(TRAINER).join_timeout)
        now = time.monotonic()
        return min((limit for limit in limits if limit > now), default=None)

    def _wait(self, until: float | None) -> None:
        """Wait for one event, at most until then, and take it into account.

        Raises:
            PeerLost: the root is gone.
        """
        patience = self._presence[TOP].patience(time.monotonic(), self._quorum(TOP).rejoin_timeout)
        if isinstance(patience, Stranded):
            raise lost(patience.end, patience.reason)
        event = self._event(min((limit for limit in (until, patience) if limit is not None), default=None))
        if event is not None:
            self._note(event)

    def _event(self, until: float | None) -> Event | None:
        channels = [self.channel(tag) for tag in (TOP, MIDDLE, TRAINER)]
        return next_event(lambda timeout: self.context.endpoint.receive(channels, timeout), until)

    def _note(self, event: Event) -> None:
        tag = next(tag for tag in (TOP, MIDDLE, TRAINER) if self.channel(tag).spec.name == event.channel)
        if isinstance(event, Joined):
            self._presence[tag].joined(event.end)
            if tag != TOP and event.end in self._told:
                self.perform(tag, self._round, {event.end: self._told[event.end]})
        elif isinstance(event, Left):
            final = event.final or event.clean
            self._presence[tag].left(event.end, event.reason, final=final, now=time.monotonic())
        else:
            self._note_message(event, tag)

    def _note_message(self, event: Arrived, tag: str) -> None:
        header = event.offer.header
        if header.kind == LOAD and tag == TRAINER:
            samples = header.scalars.get("samples")
            self._loads[event.end] = float(samples) if isinstance(samples, int | float) else 0.0
        elif header.kind == EXCLUDE:
            self._excluded[str(header.scalars.get("end"))] = str(header.scalars.get("reason"))
        elif header.kind == ASK and tag == TOP:
            self._question = Question(header.round, event.end, event.at)
        elif header.kind == END and tag == TOP:
            self._over = True
        else:
            log.warning("%s sent %r to the coordinator, which is refused", event.end, header.kind)
            event.offer.refuse(f"kind {header.kind!r} means nothing to a coordinator")
            return
        event.offer.accept()


def _tell(channel: Channel, round: int, ends: Mapping[str, Sequence[str]], **more: str) -> None:
    for end, others in ends.items():
        channel.send(Message(kind=ASSIGN, round=round, scalars={"ends": json.dumps(list(others)), **more}), [end])


def _meet(one: Mapping[str, str], other: Mapping[str, str]) -> bool:
    """Whether two workers are in the same group of some channel."""
    return any(other.get(channel) == label for channel, label in one.items())
