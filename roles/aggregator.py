"""The aggregator of every level: distributes a model to its ends and folds their updates.

One that binds `distribute` and `aggregate` only is a root and counts the rounds. With `fetch` and `upload`
bound as well it is a middle one, at any depth: its rounds come from above and its sums go there.
"""

import logging
import secrets
import time
from dataclasses import replace
from functools import cached_property

from roles.codecs.codec import Codec
from roles.codecs.messages import codec_for, unpack
from roles.codecs.uploads import Uploads
from roles.context import Context
from roles.coordination.asking import Asking
from roles.errors import RoundFailed
from roles.kinds import EXCLUDE, PHASE, SURVEY, TICKET, TRAIN, VIRTUAL_TIME, ticket_of
from roles.lending.loans import Loans
from roles.lending.losses import Losses
from roles.lending.watch import Watch
from roles.role import Role
from roles.root import Root
from roles.rounds.average import WeightedSum
from roles.rounds.below import Below, virtual_time
from roles.rounds.task import Task
from roles.tags import MANY, function
from roles.upward import Upward
from transports.base import Channel, ChannelSpec
from transports.message import Message

log = logging.getLogger(__name__)


class Aggregator(Role):
    """Folds updates into a weighted mean; see the module for what makes it a root or a middle one."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        # A root that was started anew is not answered with what its predecessor asked for.
        self._start = secrets.token_hex(4)
        self._unsent: tuple[str, WeightedSum] | None = None
        """A sum that was lost on its way, and its ticket: the same round need not be done twice."""
        self._attempts = 0
        self._handed = 0
        self._over = False
        """Whether this is a root that was started anew when all rounds were done."""
        self._codec = codec_for(context, "fetch")
        self._uploads = Uploads(context, self.keep)

    def run(self) -> None:
        """Serve round after round; a root also evaluates, stores and ends the job."""
        root = None if self.bound("fetch") else Root(self.context)
        self._over = root is not None and root.over
        if root is None:
            self.below.choice.begin(self.keep)
        self.join()
        self._place(root)
        while (task := self.next_task(root)) is not None:
            began = time.monotonic()
            try:
                total = self._total(task, root)
            except RoundFailed as error:
                self._fall_short(task, error)
                continue
            self._attempts = 0
            if root is None:
                self.perform("upload", task, total)
            elif task.phase == SURVEY:
                root.surveyed(task.round, total)
            else:
                root.close(task.round, total, time.monotonic() - began, now=self.below.now)
        if root is not None:
            root.end()
            if self.bound("coordinate"):
                self.farewell([self.channel("coordinate")])
        self.farewell(self.below.channels, self.below.ends.presence.gone)

    def _place(self, root: Root | None) -> None:
        """Let models and sums lie where they can be sent from without another copy."""
        if root is not None:
            self.below.allocate_sum = root.allocate_sum
            if codec_for(self.context, "distribute") is None:
                root.move(self.channel("distribute").allocate)
        elif self._uploads.codec is None:
            self.below.allocate_sum = self.channel("upload").allocate

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
        chosen = self.perform("coordinate", round) if self.bound("coordinate") else self.below.names
        task = Task(round, root.model, chosen, limit=self.context.sampler.deadline(round))
        return self.below.choice.among(task, self.below.ends)

    def _task_from_above(self) -> Task | None:
        ends = self.below.names
        while not self.upward.over:
            if self.bound("coordinate"):
                ends = self.perform("coordinate", None)
            task: Task | None = None if self.upward.over else self.perform("fetch")
            if task is None:
                continue
            try:
                return self.below.choice.among(replace(task, ends=ends), self.below.ends)
            except RoundFailed as error:
                self._fall_short(task, error)
        return None

    def _total(self, task: Task, root: Root | None) -> WeightedSum:
        unsent, self._unsent = self._unsent, None
        if unsent is not None and unsent[0] == task.ticket:
            return unsent[1]
        self.keep.enter(task.round)
        self.context.reporter.entered(task.round)
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
            fault, starved = not error.lost, error.starved
            self.upward.skip(task.parent, task.ticket, task.round, str(error), fault=fault, starved=starved)
            return
        self._attempts += 1
        self.below.choice.again()
        # Those who trained below an aggregator that was lost may train below another one.
        asks = self.bound("coordinate") and not self._borrows
        others = asks and self.below.quorum.tolerant and self._attempts <= len(self.below.names)
        if not (others and error.lost):
            raise error
        log.warning("%s; the coordinator is asked again", error)

    @cached_property
    def upward(self) -> Upward:
        """The way to the aggregator above, and to the coordinator."""
        models, settings = self.channel("fetch"), self.context.settings
        coordinator = self.channel("coordinate") if self.bound("coordinate") and not self._borrows else None
        timeouts = [settings.quorum_of(channel.spec.name).rejoin_timeout for channel in (models, coordinator or models)]
        answers = self.channel("upload")
        ways = (timeouts[0], timeouts[1])
        below = (self.below.listens_on, self.below.note_between)
        return Upward(self.context.endpoint, models, answers, coordinator, chosen_parent=False, timeouts=ways, below=below)

    @cached_property
    def below(self) -> Below:
        """The ends that get models from here."""
        own, answered = self.context.tags["distribute"], self.context.tags["aggregate"]
        channels = [self._channel(name) for name in own]
        listens_on = [*channels, *(self._channel(name) for name in answered if name not in own)]
        return Below(self.context, channels, listens_on, root=not self.bound("fetch"), watch=self._watch())

    @property
    def _borrows(self) -> bool:
        """Whether a coordinator lends ends to aggregators, instead of mapping them for a round."""
        return self.bound("coordinate") and self.context.strategy.traits.asynchronous

    def _watch(self) -> Watch | None:
        if not self._borrows:
            return None
        channel = self.channel("coordinate")
        timeout = self.context.settings.quorum_of(channel.spec.name).rejoin_timeout
        # Those below a root are its own; they need no lending.
        return Loans(channel, timeout) if self.bound("fetch") else Losses(channel, timeout)

    def needed_ends(self, channel: ChannelSpec, gone: int) -> int:
        """As many of the ends below as a round needs; all of those above, or one. Where no round is left, nobody.

        One is enough above where a coordinator chooses among them.
        """
        if self._over:
            return 0
        if channel.name not in self.context.tags["distribute"]:
            chosen = self.bound("coordinate") and channel.name in self.context.tags.get("fetch", ())
            return 1 if chosen else super().needed_ends(channel, gone)
        return self.context.settings.quorum_of(channel.name).needed(len(channel.ends), gone)

    @function("coordinate")
    def coordinate(self, channel: Channel, round: int | None) -> tuple[str, ...]:  # noqa: ARG002 - what every function is given
        """The ends that take part in the next round; none at the end. A root asks for `round`, the others are told.

        A middle aggregator without ends sits the round out and waits on. In an asynchronous job all ends may: they are lent when
        they are needed.

        Raises:
            RoundFailed: the coordinator found nobody for the root.
            PeerLost: the coordinator is gone.
        """
        if self._borrows:
            return self.below.names
        if round is not None:
            return self._asking.ask(round)
        assignment = self.upward.assignment()
        return () if assignment is None else assignment.ends

    @cached_property
    def _asking(self) -> Asking:
        channel = self.channel("coordinate")
        below = (self.below.listens_on, self.below.note_between)
        return Asking(self.context.endpoint, channel, below, self.context.settings.quorum_of(channel.spec.name).rejoin_timeout)

    @function("fetch")
    def fetch(self, channel: Channel) -> Task | None:  # noqa: ARG002 - what every function is given
        """The model of the next round from above; None at the end, and when the coordinator has changed its mind.

        Raises:
            PeerLost: there is nobody left who could send one.
        """
        message = self.upward.model()
        if message is None:
            return None
        model, simulated = unpack(self._codec_of(message), message), self.context.settings.simulated
        if simulated is not None:
            at = virtual_time(message) + simulated.transfer(self.context.name, message.round)
            model = model.relabel(scalars={**model.scalars, VIRTUAL_TIME: at})
        return Task(message.round, model, (), message.sender, ticket_of(message.scalars))

    def _codec_of(self, message: Message) -> Codec | None:
        return self._codec if message.scalars.get(PHASE, TRAIN) == TRAIN else None

    @function("distribute", channels=MANY)
    def distribute(self, channel: Channel, task: Task) -> None:  # noqa: ARG002 - what every function is given
        """Send the model of the round to its ends, packed once."""
        self.below.distribute(task)

    @function("aggregate", channels=MANY)
    def aggregate(self, channel: Channel, task: Task) -> WeightedSum:  # noqa: ARG002 - what every function is given
        """Fold the updates of the round in the order of the plan.

        Raises:
            RoundFailed: fewer ends can deliver than are needed; the text names who and why.
        """
        try:
            return self.below.collect(task)
        finally:
            self._tell_excluded(task.round)

    def _tell_excluded(self, round: int) -> None:
        """Tell the coordinator who gets no more models."""
        for end, reason in self.below.newly_excluded.items():
            if self.bound("coordinate"):
                coordinator, told = self.channel("coordinate"), {"end": end, "reason": reason}
                coordinator.send(Message(kind=EXCLUDE, round=round, scalars=told), coordinator.spec.ends)
        self.below.newly_excluded = {}

    @function("upload")
    def upload(self, channel: Channel, task: Task, total: WeightedSum) -> None:
        """Hand the sum to the aggregator above; returns when its fate is known.

        A refused one is counted and shown, one that was lost with its connection is kept: the aggregator above sends the
        model again if it still needs the sum.
        """
        answer = self._uploads.of_sum(total, task.model, channel) if task.phase == TRAIN else total.message(task.round)
        if self.below.now is not None and self.context.settings.simulated is not None:
            at = self.below.now + self.context.settings.simulated.transfer(self.context.name, task.round)
            answer = answer.relabel(scalars={**answer.scalars, VIRTUAL_TIME: at})
        self.keep.save(task.round)
        task.model.release()
        self.context.reporter.metrics(task.round, {"upload_bytes": answer.nbytes})
        outcome = self.upward.answer(channel, task.parent or "", task.ticket, answer)
        if outcome.state == "refused":
            self.context.reporter.metrics(task.round, {"refused_updates": 1})
            self._uploads.refused(answer)
        elif outcome.state == "lost" and task.ticket is not None:
            self._unsent = (task.ticket, total)
