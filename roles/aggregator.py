"""The aggregator of every level: distributes a model to its ends and folds their updates.

One that binds `distribute` and `aggregate` only is a root and counts the rounds. With `fetch` and `upload`
bound as well it is a middle one, at any depth: its rounds come from above and its sums go there.
"""

import logging
import secrets
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

from roles.asking import Asking
from roles.average import WEIGHTS, WeightedSum
from roles.codecs.messages import codec_for, pack, restore, unpack
from roles.codecs.uploads import Uploads
from roles.context import Context
from roles.ends import Ends
from roles.errors import RoundFailed
from roles.kinds import EXCLUDE, TICKET, ticket_of
from roles.role import Role
from roles.root import Root
from roles.round import Round, note_between
from roles.settings import Quorum
from roles.tags import function
from roles.upward import Upward, next_event
from transports.base import Channel, ChannelSpec, Event
from transports.message import Message, Specs

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Task:
    """One round of an aggregator: the model to hand down and the ends that take part, in the order of the plan."""

    round: int
    model: Message
    """In the module's types."""
    ends: tuple[str, ...]
    parent: str | None = None
    """Whom the sum goes to; None at a root."""
    ticket: str | None = None
    """What ties the sum to the model from above."""
    encoded: Message | None = None
    """The model as its ends get it, where their channel has a codec."""

    @property
    def sent(self) -> Message:
        """What the ends get."""
        return self.model if self.encoded is None else self.encoded


class Aggregator(Role):
    """Folds updates into a weighted mean; see the module for what makes it a root or a middle one."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        # A root that was started anew is not answered with what its predecessor asked for.
        self._start = secrets.token_hex(4)
        self._unsent: tuple[str, WeightedSum] | None = None
        """A sum that was lost on its way, and its ticket: the same round need not be done twice."""
        self._allocate_sum: Callable[[str, int, Specs], Message] = Message.allocate
        """Makes the message that the sum of a round lies in: where it can be sent from without another copy."""
        self._attempts = 0
        self._handed = 0
        self._over = False
        """Whether this is a root that was started anew when all rounds were done."""
        self._codecs = {tag: codec_for(context, tag) for tag in ("fetch", "distribute", "aggregate")}
        self._uploads = Uploads(context, self.keep)

    def run(self) -> None:
        """Serve round after round; a root also evaluates, stores and ends the job."""
        root = None if self.bound("fetch") else Root(self.context)
        self._over = root is not None and root.over
        self.join()
        if root is not None:
            self._allocate_sum = root.allocate_sum
            if self._codecs["distribute"] is None:
                root.move(self.channel("distribute").allocate)
        elif self._uploads.codec is None:
            self._allocate_sum = self.channel("upload").allocate
        while (task := self.next_task(root)) is not None:
            began = time.monotonic()
            try:
                total = self._total(task, root)
            except RoundFailed as error:
                self._fall_short(task, error)
                continue
            self._attempts = 0
            if root is not None:
                root.close(task.round, total, time.monotonic() - began)
            else:
                self.perform("upload", task, total)
        if root is not None:
            root.end()
            if self.bound("coordinate"):
                self.farewell([self.channel("coordinate")])
        self.farewell([self.channel("distribute")], self.ends.presence.gone)

    def next_task(self, root: Root | None) -> Task | None:
        """The next round, or None at the end of the job."""
        task = self._task_from_above() if root is None else self._task_of_root(root)
        if task is None:
            return None
        # A round that is done again needs every update again.
        self._handed += 1
        ticket = f"{self._start}-{self._handed}"
        return replace(task, model=task.model.relabel(scalars={**task.model.scalars, TICKET: ticket}))

    def _task_of_root(self, root: Root) -> Task | None:
        round = root.next_round()
        if round is None:
            return None
        chosen = self.perform("coordinate", round) if self.bound("coordinate") else self.channel("distribute").spec.ends
        return Task(round, root.model, chosen)

    def _task_from_above(self) -> Task | None:
        ends = self.channel("distribute").spec.ends
        while not self.upward.over:
            if self.bound("coordinate"):
                ends = self.perform("coordinate", None)
            task: Task | None = None if self.upward.over else self.perform("fetch")
            if task is not None:
                return replace(task, ends=ends)
        return None

    def _total(self, task: Task, root: Root | None) -> WeightedSum:
        unsent, self._unsent = self._unsent, None
        if unsent is not None and unsent[0] == task.ticket:
            return unsent[1]
        self.keep.enter(task.round)
        self.context.reporter.entered(task.round)
        if (codec := self._codecs["distribute"]) is not None:
            task = replace(task, encoded=pack(codec, task.model, self.channel("distribute").allocate))
        self.perform("distribute", task)
        if root is not None:
            root.review()
        total: WeightedSum = self.perform("aggregate", task)
        return total

    def _fall_short(self, task: Task, error: RoundFailed) -> None:
        """Go on after a round below the quorum: a middle aggregator sits it out, a root asks its coordinator again.

        Raises:
            RoundFailed: there is nothing to go on with.
        """
        if task.parent is not None:
            log.warning("%s closes without an update: %s", self.context.name, error)
            self.upward.skip(task.parent, task.ticket, task.round, str(error), fault=not error.lost)
            return
        self._attempts += 1
        # Those who trained below an aggregator that was lost may train below another one.
        others = self.bound("coordinate") and self.quorum.tolerant and self._attempts <= len(self.channel("distribute").spec.ends)
        if not (others and error.lost):
            raise error
        log.warning("%s; the coordinator is asked again", error)

    @cached_property
    def upward(self) -> Upward:
        """The way to the aggregator above, and to the coordinator."""
        models, settings = self.channel("fetch"), self.context.settings
        coordinator = self.channel("coordinate") if self.bound("coordinate") else None
        timeouts = [settings.quorum_of(channel.spec.name).rejoin_timeout for channel in (models, coordinator or models)]
        answers = self.channel("upload")
        ways = (timeouts[0], timeouts[1])
        below = (self._channels_below, self._note_between)
        return Upward(self.context.endpoint, models, answers, coordinator, chosen_parent=False, timeouts=ways, below=below)

    @property
    def quorum(self) -> Quorum:
        """The policy of the ends below."""
        return self.context.settings.quorum_of(self.channel("distribute").spec.name)

    @cached_property
    def ends(self) -> Ends:
        """What is known of the ends below."""
        return Ends(self.channel("distribute").spec.ends, self.quorum)

    def needed_ends(self, channel: ChannelSpec, gone: int) -> int:
        """As many of the ends below as a round needs; all of those above. Where no round is left, nobody."""
        if self._over:
            return 0
        if channel.name != self.context.tags["distribute"][0]:
            return super().needed_ends(channel, gone)
        return self.context.settings.quorum_of(channel.name).needed(len(channel.ends), gone)

    @function("coordinate")
    def coordinate(self, channel: Channel, round: int | None) -> tuple[str, ...]:  # noqa: ARG002 - what every function is given
        """The ends that take part in the next round; none at the end. A root asks for `round`, the others are told.

        A middle aggregator without ends sits the round out and waits on.

        Raises:
            RoundFailed: the coordinator found nobody for the root.
            PeerLost: the coordinator is gone.
        """
        if round is not None:
            return self._asking.ask(round)
        assignment = self.upward.assignment()
        return () if assignment is None else assignment.ends

    @cached_property
    def _asking(self) -> Asking:
        channel = self.channel("coordinate")
        below = (self._channels_below, self._note_between)
        return Asking(self.context.endpoint, channel, below, self.context.settings.quorum_of(channel.spec.name).rejoin_timeout)

    @function("fetch")
    def fetch(self, channel: Channel) -> Task | None:  # noqa: ARG002 - what every function is given
        """The model of the next round from above; None at the end, and when the coordinator has changed its mind.

        Raises:
            PeerLost: there is nobody left who could send one.
        """
        message = self.upward.model()
        message = None if message is None else unpack(self._codecs["fetch"], message)
        return None if message is None else Task(message.round, message, (), message.sender, ticket_of(message.scalars))

    @function("distribute")
    def distribute(self, channel: Channel, task: Task) -> None:
        """Send the model of the round to its ends, packed once.

        Who is away gets it when it is back, who still works on an earlier round when it is done with that.
        """
        while (event := next_event(self._receive, 0.0)) is not None:
            self._note_between(event)
        ends = [end for end in task.ends if self.ends.free(end)]
        self.ends.ask(channel, task.sent, ends)
        self.context.reporter.metrics(task.round, {"distribute_bytes": task.sent.nbytes * len(ends)})

    @function("aggregate")
    def aggregate(self, channel: Channel, task: Task) -> WeightedSum:
        """Fold the updates of the round in the order of the plan.

        Raises:
            RoundFailed: fewer ends can deliver than are needed; the text names who and why.
        """
        total = WeightedSum(task.model.specs[WEIGHTS], self._allocate_sum)
        channel, excluded = self.channel("distribute"), set(self.ends.excluded)
        codec, receive = self._codecs["aggregate"], self._receive
        round = Round(task.sent, task.ends, self.ends, channel=channel, receive=receive, settings=self.quorum, codec=codec)
        try:
            round.fold_into(total)
        finally:
            self._report(task.round, round.missing, self.ends.excluded.keys() - excluded)
        restore(total, codec, task.sent, self._codecs["distribute"])
        return total

    def _receive(self, timeout: float | None) -> Event:
        return self.context.endpoint.receive(self._channels_below, timeout)

    @cached_property
    def _channels_below(self) -> list[Channel]:
        return list({self.context.tags[tag][0]: self.channel(tag) for tag in ("distribute", "aggregate")}.values())

    def _note_between(self, event: Event) -> None:
        """Take an event of the ends into account while no round is open."""
        note_between(self.ends, event)

    def _report(self, round: int, missing: Mapping[str, str], excluded: Iterable[str]) -> None:
        """Say what a round went without, and tell the coordinator who gets no more models."""
        for end, reason in missing.items():
            log.warning("round %d goes without %s: %s", round, end, reason)
        values = {**self.ends.report(), **({"missing_ends": len(missing)} if missing else {})}
        if values:
            self.context.reporter.metrics(round, values)
        for end in excluded:
            if self.bound("coordinate"):
                coordinator, told = self.channel("coordinate"), {"end": end, "reason": self.ends.excluded[end]}
                coordinator.send(Message(kind=EXCLUDE, round=round, scalars=told), coordinator.spec.ends)

    @function("upload")
    def upload(self, channel: Channel, task: Task, total: WeightedSum) -> None:
        """Hand the sum to the aggregator above; returns when its fate is known.

        A refused one is counted and shown, one that was lost with its connection is kept: the aggregator above sends the
        model again if it still needs the sum.
        """
        answer = self._uploads.of_sum(total, task.model, channel)
        self.keep.save(task.round)
        task.model.release()
        self.context.reporter.metrics(task.round, {"upload_bytes": answer.nbytes})
        outcome = self.upward.answer(channel, task.parent or "", task.ticket, answer)
        if outcome.state == "refused":
            self.context.reporter.metrics(task.round, {"refused_updates": 1})
            self._uploads.refused(answer)
        elif outcome.state == "lost" and task.ticket is not None:
            self._unsent = (task.ticket, total)
