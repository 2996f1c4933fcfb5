"""The trainer: fetches the global model, trains it on its own data, uploads what became of it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial

from lightning.pytorch import LightningModule
from torch import Tensor

from roles import state as states
from roles.codecs.messages import codec_for, unpack
from roles.codecs.uploads import Uploads
from roles.context import Context
from roles.errors import BadModel
from roles.fit import LocalTraining, build_seeded
from roles.kinds import LOAD, PHASE, SURVEY, TRAIN, TURN, UPDATE, VIRTUAL_TIME, ticket_of
from roles.part import Update
from roles.ring.member import Grouped, Member, Peer
from roles.role import Role
from roles.rounds.average import WEIGHTS
from roles.tags import RING_ALLREDUCE, function
from roles.upward import Upward
from transports.base import Channel, ChannelSpec, Event
from transports.message import Message


@dataclass(frozen=True, slots=True)
class Task:
    """One round of local training: where the model came from and the round it belongs to."""

    round: int
    parent: str
    model: Message

    @property
    def ticket(self) -> str | None:
        """What ties the update to this model."""
        return ticket_of(self.model.scalars)

    @property
    def phase(self) -> str:
        """What the model is for."""
        return str(self.model.scalars.get(PHASE, TRAIN))


class Trainer(Role):
    """Trains with PyTorch Lightning on the worker's own dataset.

    Needs `build_module` and `build_data` of its context. With `coordinate` bound, a coordinator names the
    aggregator of each round; otherwise it is whoever distributes.
    """

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._unsent: tuple[str, Message] | None = None
        """An update that was lost on its way, and its ticket: the same model need not be trained twice."""
        self._effort = 1.0
        """Which part of a whole round's training the last one was."""
        self._codec = codec_for(context, "fetch")
        self._uploads = Uploads(context, self.keep)

    def run(self) -> None:
        """Train round after round until the end is announced."""
        self.prepare()
        self.join()
        while (task := self.next_task()) is not None:
            update: Message | None = self._update(task)
            if self.bound(RING_ALLREDUCE):
                update = self.perform(RING_ALLREDUCE, task, update)
            if update is not None:
                self.perform("upload", task, update)

    def _update(self, task: Task) -> Message:
        unsent, self._unsent = self._unsent, None
        if unsent is not None and unsent[0] == task.ticket:
            return unsent[1]
        self.keep.enter(task.round)
        self.context.reporter.entered(task.round)
        if task.phase == SURVEY:
            return self._timed(task, self.answer(task))
        self.receive(task)
        update = self._timed(task, self.train(task))
        if self.bound(RING_ALLREDUCE):
            return update  # what goes up is made of it and of others
        return self._uploads.of_update(update, task.model, self.channel("upload"))

    def _timed(self, task: Task, update: Message) -> Message:
        """`update` with the time at which it comes, where a virtual clock runs."""
        simulated, sent = self.context.settings.simulated, task.model.scalars.get(VIRTUAL_TIME)
        if simulated is None or sent is None:
            return update
        effort = 0.0 if task.phase == SURVEY else self._effort
        seconds = simulated.task(self.context.name, task.round, effort)
        return update.relabel(scalars={**update.scalars, VIRTUAL_TIME: float(sent) + seconds})

    @cached_property
    def upward(self) -> Upward:
        """The way to the aggregators, and to the coordinator."""
        models, settings = self.channel("fetch"), self.context.settings
        coordinator = self.channel("coordinate") if self.bound("coordinate") else None
        timeouts = [settings.quorum_of(channel.spec.name).rejoin_timeout for channel in (models, coordinator or models)]
        return Upward(
            self.context.endpoint,
            models,
            self.channel("upload"),
            coordinator,
            chosen_parent=True,
            timeouts=(timeouts[0], timeouts[1]),
            greet=self._report_load,
            below=self._ring_below(),
            obeys=not self.context.strategy.traits.asynchronous,
        )

    def _ring_below(self) -> tuple[Sequence[Channel], Callable[[Event], object]]:
        """Those of the ring who still need this worker while it waits for its aggregator."""
        member = self.member if self.bound(RING_ALLREDUCE) else None
        return ([self.channel(RING_ALLREDUCE)], member.note) if isinstance(member, Grouped) else ([], lambda event: None)  # noqa: ARG005

    @cached_property
    def member(self) -> Member:
        """What this worker is to its ring."""
        channel = self.channel(RING_ALLREDUCE)
        if self.bound("fetch"):
            channels = (channel, self.channel("fetch"), self.channel("upload"))
            return Grouped(self.context, channels, lambda: self.upward, self._uploads)
        return Peer(self.context, channel, self.module(), partial(self.farewell, [channel]))

    def _report_load(self) -> None:
        channel = self.channel("coordinate")
        channel.send(Message(kind=LOAD, round=0, scalars={"samples": self.samples()}), channel.spec.ends)

    def needed_ends(self, channel: ChannelSpec, gone: int) -> int:
        """All; of several aggregators that a coordinator chooses from, one."""
        if self.bound(RING_ALLREDUCE) and channel.name == self.context.tags[RING_ALLREDUCE][0]:
            # This worker is one of those that the policy counts.
            return self.context.settings.quorum_of(channel.name).needed(len(channel.ends) + 1, gone) - 1
        chosen = self.bound("coordinate") and channel.name == self.context.tags["fetch"][0]
        return 1 if chosen else super().needed_ends(channel, gone)

    def prepare(self) -> None:
        """Build module, data and Lightning trainer. Override to prepare more.

        Raises:
            BadModel: the worker has no model or no data.
        """
        if self.context.build_data is None:
            raise BadModel(f"{self.context.name} is a trainer without data: set model.data and give its role datasets")
        self.training = LocalTraining(self.context, build_seeded(self.context), self.context.build_data())
        for name, part in self.training.remembered().items():
            self.keep.register(name, part)

    def next_task(self) -> Task | None:
        """The next round of this trainer, or None at the end of the job."""
        if not self.bound("fetch"):
            model = self.member.begin()
            if model is None:
                return None
            self.load(model)
            return Task(model.round, self.context.name, model)
        while not self.upward.over:
            parent = self.perform("coordinate") if self.bound("coordinate") else None
            if not self.upward.over:
                task: Task | None = self.perform("fetch", parent)
                if task is not None:
                    return task
        return None

    @function("coordinate")
    def coordinate(self, channel: Channel) -> str | None:  # noqa: ARG002 - what every function is given
        """The aggregator of the next round in which this trainer takes part; None at the end.

        In an asynchronous job None, too: only an aggregator that it is lent to sends it a model.

        Raises:
            PeerLost: the coordinator is gone.
        """
        assignment = None if self.context.strategy.traits.asynchronous else self.upward.assignment()
        return None if assignment is None else assignment.ends[0]

    @function("fetch")
    def fetch(self, channel: Channel, parent: str | None) -> Task | None:  # noqa: ARG002 - what every function is given
        """The global model from `parent` (None: from whoever distributes), loaded into the module.

        None at the end, and when the coordinator has changed its mind.

        Raises:
            PeerLost: there is nobody left who could send one.
        """
        message = self.upward.model()
        if message is None:
            return None
        if message.scalars.get(PHASE, TRAIN) == TRAIN:
            message = unpack(self._codec, message)
        self.load(message)
        return Task(message.round, message.sender, message)

    def module(self) -> LightningModule:
        """The worker's own module, as it was built."""
        return self.training.module

    def samples(self) -> int:
        """Training samples of this worker, from 1."""
        return self.training.samples

    def load(self, message: Message) -> None:
        """Put the global model into the module. Override where nothing trains it."""
        states.load_shared(self.training.module, states.of_module(message.groups))

    def receive(self, task: Task) -> None:
        """Show the model to the client halves of the algorithm. Override where there are none."""
        self.training.receive(task.model)

    def take_back(self, task: Task) -> None:  # noqa: ARG002 - for those that remember more
        """Forget what was remembered for an update that was refused. Override where there are no client halves."""
        self.training.refused()

    def answer(self, task: Task) -> Message:
        """The answer to a survey about the model."""
        scalars = {"weight": 1.0, "samples": self.samples(), "merged": False, **self.training.answer(task.model)}
        return Message(kind=UPDATE, round=task.round, scalars=scalars).packed()

    def train(self, task: Task) -> Message:
        """Train locally for one round. Override `LocalTraining` or this for another kind of training.

        Returns:
            The update. It refers to the tensors of the module; sending it packs them.
        """
        values = self.training.fit(task.round, turn=int(task.model.scalars.get(TURN, 0)))
        self.context.reporter.metrics(task.round, values)
        share = self.context.settings.share
        groups = states.shared_state(self.training.module, share)
        thawed = sorted(set(task.model.groups.get(states.FROZEN, {})) ^ set(groups[states.FROZEN]))
        if thawed:
            raise BadModel(
                f"parameters that changed between frozen and trainable during the job: {thawed[:5]}; freeze them in the module's "
                "constructor or leave them out with job.share.exclude"
            )
        update = self._completed(task, groups[WEIGHTS])
        scalars = {"weight": update.weight, "samples": update.samples, "merged": False, **update.scalars}
        return Message(kind=UPDATE, round=task.round, scalars=scalars, groups={WEIGHTS: update.weights, **update.groups})

    def _completed(self, task: Task, weights: Mapping[str, Tensor]) -> Update:
        strategy, samples = self.context.strategy, self.samples()
        by = strategy.weighted_by or self.context.settings.share.weighted_by
        weight = float(samples) if by == "samples" else 1.0
        update = Update(round=task.round, weights=dict(weights), weight=weight, samples=samples)
        self.training.finish(update)
        self._effort = update.effort
        if strategy.traits.differences:
            received = task.model.groups[WEIGHTS]
            # Buffers travel as they are: a mean of their differences may be no value that they can have.
            for name in self.training.local.parameters:
                update.weights[name] = update.weights[name].detach() - received[name]
        return update

    @function(RING_ALLREDUCE)
    def ring_allreduce(self, channel: Channel, task: Task, update: Message) -> Message | None:  # noqa: ARG002 - what every function is given
        """Average the update with those of the others in the ring; None, unless this worker hands the mean up.

        Raises:
            RoundFailed: too few can take part; names who cannot.
            PeerLost: the leader of the ring is away for too long.
        """
        if update.scalars.get("merged"):
            return update  # the ring's, which was lost on its way up
        ticket = task.ticket or str(task.round)
        if self.bound("fetch"):
            # The model may come once more, and be loaded into the module.
            update = update.packed()
            self._unsent = (ticket, update)
        self.keep.save(task.round)
        return self.member.reduce(ticket, task.model, task.parent, update)

    @function("upload")
    def upload(self, channel: Channel, task: Task, update: Message) -> None:
        """Hand the update to the aggregator that sent the model; returns when its fate is known.

        A refused one is counted and shown, one that was lost with its connection is kept: the aggregator sends the model
        again if it still needs the update.
        """
        self.keep.save(task.round)
        # The sender's memory is used again for the next model but one: by then nobody may look at this one any more.
        task.model.release()
        self.context.reporter.metrics(task.round, {"upload_bytes": update.nbytes})
        outcome = self.upward.answer(channel, task.parent, task.ticket, update)
        if outcome.state == "refused":
            self.context.reporter.metrics(task.round, {"refused_updates": 1})
            if task.phase == TRAIN:
                self.take_back(task)
                self.keep.save(task.round)
            self._uploads.refused(update)
        elif outcome.state == "lost" and task.ticket is not None:
            self._unsent = (task.ticket, update.packed())
