"""The trainer: fetches the global model, trains it on its own data, uploads what became of it."""

from dataclasses import dataclass
from functools import cached_property

from roles import state as states
from roles.average import WEIGHTS
from roles.codecs.messages import codec_for, unpack
from roles.codecs.uploads import Uploads
from roles.context import Context
from roles.errors import BadModel
from roles.fit import LocalTraining, build_seeded
from roles.kinds import LOAD, UPDATE, ticket_of
from roles.role import Role
from roles.tags import function
from roles.upward import Upward
from transports.base import Channel, ChannelSpec
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


class Trainer(Role):
    """Trains with PyTorch Lightning on the worker's own dataset.

    Needs `build_module` and `build_data` of its context. With `coordinate` bound, a coordinator names the
    aggregator of each round; otherwise it is whoever distributes.
    """

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._unsent: tuple[str, Message] | None = None
        """An update that was lost on its way, and its ticket: the same model need not be trained twice."""
        self._codec = codec_for(context, "fetch")
        self._uploads = Uploads(context, self.keep)

    def run(self) -> None:
        """Train round after round until the end is announced."""
        self.prepare()
        self.join()
        while (task := self.next_task()) is not None:
            self.perform("upload", task, self._update(task))

    def _update(self, task: Task) -> Message:
        unsent, self._unsent = self._unsent, None
        if unsent is not None and unsent[0] == task.ticket:
            return unsent[1]
        self.keep.enter(task.round)
        self.context.reporter.entered(task.round)
        return self._uploads.of_update(self.train(task), task.model, self.channel("upload"))

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
        )

    def _report_load(self) -> None:
        channel = self.channel("coordinate")
        channel.send(Message(kind=LOAD, round=0, scalars={"samples": self.samples()}), channel.spec.ends)

    def needed_ends(self, channel: ChannelSpec, gone: int) -> int:
        """All; of several aggregators that a coordinator chooses from, one."""
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

        Raises:
            PeerLost: the coordinator is gone.
        """
        assignment = self.upward.assignment()
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
        message = unpack(self._codec, message)
        self.load(message)
        return Task(message.round, message.sender, message)

    def samples(self) -> int:
        """Training samples of this worker, from 1."""
        return self.training.samples

    def load(self, message: Message) -> None:
        """Put the global model into the module. Override where nothing trains it."""
        states.load_shared(self.training.module, message.groups)

    def train(self, task: Task) -> Message:
        """Train locally for one round. Override `LocalTraining` or this for another kind of training.

        Returns:
            The update. It refers to the tensors of the module; sending it packs them.
        """
        values = self.training.fit(task.round)
        self.context.reporter.metrics(task.round, values)
        share = self.context.settings.share
        groups = states.shared_state(self.training.module, share)
        thawed = sorted(set(task.model.groups.get(states.FROZEN, {})) ^ set(groups[states.FROZEN]))
        if thawed:
            raise BadModel(
                f"parameters that changed between frozen and trainable during the job: {thawed[:5]}; freeze them in the module's "
                "constructor or leave them out with job.share.exclude"
            )
        samples = self.samples()
        weight = float(samples) if share.weighted_by == "samples" else 1.0
        scalars = {"weight": weight, "samples": samples, "merged": False}
        return Message(kind=UPDATE, round=task.round, scalars=scalars, groups={WEIGHTS: groups[WEIGHTS]})

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
            self._uploads.refused(update)
        elif outcome.state == "lost" and task.ticket is not None:
            self._unsent = (task.ticket, update.packed())
