"""The ends of an aggregator: hands models down to them and folds what they answer."""

import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial

from roles.codecs.messages import codec_for, pack, restore
from roles.context import Context
from roles.kinds import SURVEY, TRAIN, VIRTUAL_TIME
from roles.lending.gather import LendersGather, LentGather
from roles.lending.loans import Loans
from roles.lending.losses import Losses
from roles.lending.watch import Watch, WatchedRound
from roles.part import Report
from roles.rounds.average import WEIGHTS, WeightedSum
from roles.rounds.choice import Choice
from roles.rounds.collect import Collect
from roles.rounds.ends import Ends
from roles.rounds.gather import Gather
from roles.rounds.kept import KeptSum
from roles.rounds.round import Round
from roles.rounds.shares import Shares
from roles.rounds.task import Task
from roles.settings import Quorum
from roles.upward import next_event
from transports.base import Channel, Event
from transports.message import Message, Specs

log = logging.getLogger(__name__)


class Below:
    """The ends on the channels where `distribute` and `aggregate` are bound, of one aggregator.

    Args:
        context: of the aggregator.
        channels: those channels, open, in the order of the plan.
        receive_on: all channels on which the ends may say something.
        root: whether nobody is above.
        watch: of an asynchronous aggregator with a coordinator: what is between them.
    """

    def __init__(
        self,
        context: Context,
        channels: Sequence[Channel],
        receive_on: Sequence[Channel],
        *,
        root: bool,
        watch: Watch | None = None,
    ) -> None:
        self.context = context
        self.channels = list(channels)
        self._watch = watch
        self.listens_on = [*receive_on, *([] if watch is None else [watch.channel])]
        names = [channel.spec.name for channel in channels]
        self.quorum: Quorum = context.settings.quorum_of(names[0]) if len(names) == 1 else context.settings.quorum
        self.names: tuple[str, ...] = tuple(end for channel in channels for end in channel.spec.ends)
        self.ends = Ends(self.names, self.quorum)
        self.choice = Choice(context, self.names)
        self.allocate_sum: Callable[[str, int, Specs], Message] = Message.allocate
        """Makes the message that the sum of a round lies in: where it can be sent from without another copy."""
        self.now: float | None = None
        """Where a virtual clock runs: its time when the last round closed."""
        self._channel_of = {end: channel for channel in channels for end in channel.spec.ends}
        self._shares = Shares(context, self._channel_of)
        self._down, self._up = codec_for(context, "distribute"), codec_for(context, "aggregate")
        self._buffer = context.strategy.buffer(root=root)
        self._lasting: Round | None = None
        """Of an asynchronous aggregator: lives on from round to round."""
        self._total: WeightedSum | None = None
        self._sent: tuple[Task, Message] | None = None
        self._bytes_down = 0
        """Of an asynchronous round."""
        self.newly_excluded: dict[str, str] = {}
        """Ends that get no more models since the last round, and why."""

    def distribute(self, task: Task) -> None:
        """Send the model of the round to its ends, packed once.

        Who is away gets it when it is back, who still works on an earlier round when it is done with that.
        """
        while (event := next_event(self.receive, 0.0)) is not None:
            self.note_between(event)
        sent = self._packed(task)
        # An asynchronous aggregator hands the model out whenever somebody is free.
        ends = [] if self._buffer is not None else [end for end in task.ends if self.ends.free(end)]
        for channel, some in self._shares.by_message(ends):
            self.ends.ask(channel, self._shares.message(some[0], sent), some)
        if self._buffer is None:
            self.context.reporter.metrics(task.round, {"distribute_bytes": self._shares.nbytes(ends)})

    def collect(self, task: Task) -> WeightedSum:
        """Fold the updates of the round.

        Raises:
            RoundFailed: fewer ends can deliver than are needed; the text names who and why.
        """
        sent, total, excluded = self._packed(task), self._empty_sum(task), set(self.ends.excluded)
        round, self._total = self._round(task), total
        round.begin(sent, task.ends)
        try:
            round.fold_into(total)
        finally:
            self._report(task, round.missing, self.ends.excluded.keys() - excluded)
        self.now = round.now
        if task.phase == TRAIN:
            restore(total, self._up, sent, self._down)
        return total

    def _packed(self, task: Task) -> Message:
        """The model of the round as its ends get it, packed once."""
        if self._sent is None or self._sent[0] is not task:
            self._sent = (task, pack(self._down if task.phase == TRAIN else None, task.model, self.channels[0].allocate))
            self._shares.begin(self._sent[1])
        return self._sent[1]

    def receive(self, timeout: float | None) -> Event:
        """The next event of the ends."""
        receive = partial(self.context.endpoint.receive, self.listens_on)
        return receive(timeout) if self._watch is None else self._watch.receive(receive, timeout)

    def note_between(self, event: Event) -> None:
        """Take an event of the ends into account while no round is open."""
        if self._watch is not None and self._watch.note(event):
            return
        if self._lasting is not None and self._total is not None:
            self._lasting.note(event, self._total)
        else:
            self.ends.note_between(event)
        if self._watch is not None:
            self._watch.settle()

    def _empty_sum(self, task: Task) -> WeightedSum:
        strategy, parts = self.context.strategy, self.context.parts
        if task.phase == SURVEY:
            return WeightedSum({}, names=strategy.sums)
        names = [name for part in parts if not (part is strategy and strategy.traits.surveys) for name in part.sums]
        specs = task.model.specs
        make = KeptSum if strategy.traits.needs_all_updates else WeightedSum
        return make(specs[WEIGHTS], self.allocate_sum, more=strategy.up_specs(specs), names=names)

    def _round(self, task: Task) -> Round:
        if self._lasting is not None:
            return self._lasting
        trains = task.phase == TRAIN
        make = Round if self._watch is None else partial(WatchedRound, self._watch)
        round = make(
            self._collect_of(task) if self._buffer is None else self._gather(),
            self.ends,
            ask=self._ask,
            receive=self.receive,
            codec=self._up if trains else None,
            entries=self._shares.entries if trains else None,
            staleness_weight=self.context.strategy.staleness_weight,
            heard=self.choice.heard if trains else _unheard,
        )
        self._lasting = None if self._buffer is None else round
        return round

    def _ask(self, model: Message, end: str) -> None:
        self._bytes_down += self._shares.nbytes([end])
        self.ends.ask(self._channel_of[end], self._shares.message(end, model), [end])

    def _collect_of(self, task: Task) -> Collect:
        quorum, settings, virtual = self.quorum, self.context.settings, self.context.settings.simulated is not None
        make = partial(Collect, task.ends, rejoin_timeout=quorum.rejoin_timeout, eager=settings.eager, virtual=virtual)
        if task.phase == SURVEY:
            return make(needed=None if quorum.tolerant else quorum.needed(len(task.ends), 0))
        now = time.monotonic() if not virtual else virtual_time(task.model)
        if task.needed is not None:
            return make(needed=min(task.needed, len(task.ends)), deadline=0.0, tolerant=quorum.tolerant)
        if task.limit is not None:
            return make(needed=1, deadline=quorum.deadline, limit=task.limit, begun=now)
        needed = None if quorum.tolerant else quorum.needed(len(task.ends), 0)
        return make(needed=needed, deadline=quorum.deadline)

    def _gather(self) -> Gather:
        assert self._buffer is not None
        needed = None if self.quorum.tolerant else self.quorum.needed(len(self.names), 0)
        virtual, rejoin_timeout = self.context.settings.simulated is not None, self.quorum.rejoin_timeout
        if isinstance(self._watch, Loans):
            return self._watch.attach(LentGather(self.names, self._buffer, needed=needed, rejoin_timeout=rejoin_timeout))
        if isinstance(self._watch, Losses):
            return self._watch.attach(LendersGather(self.names, self._buffer, needed=needed, rejoin_timeout=rejoin_timeout))
        return Gather(self.names, self._buffer, needed=needed, rejoin_timeout=rejoin_timeout, virtual=virtual)

    def _report(self, task: Task, missing: Mapping[str, str], excluded: Iterable[str]) -> None:
        """Say what a round went without."""
        if task.phase == TRAIN:
            self.choice.missed(task.round, missing)
        for end, reason in missing.items():
            log.warning("round %d goes without %s: %s", task.round, end, reason)
        values = {**self.ends.report(), **({"missing_ends": len(missing)} if missing else {})}
        if self._buffer is not None:
            values["distribute_bytes"], self._bytes_down = self._bytes_down, 0
        if values:
            self.context.reporter.metrics(task.round, values)
        self.newly_excluded = {end: self.ends.excluded[end] for end in excluded}


def virtual_time(model: Message) -> float:
    """The time of the virtual clock at which `model` is handed out."""
    return float(model.scalars.get(VIRTUAL_TIME, 0.0))


def _unheard(report: Report) -> None:
    """Nobody wants to know what the answer to a survey said."""
