"""The trainer: fetches the global model, trains it on its own data, uploads what became of it."""

import json
from dataclasses import dataclass

from roles import state as states
from roles.average import WEIGHTS
from roles.context import Context
from roles.errors import BadModel, RoleError
from roles.fit import LocalTraining, build_seeded
from roles.role import END, Role, expect, lost
from roles.tags import function
from transports.base import Arrived, Channel, Left, Offer
from transports.message import Message

ASSIGN, LOAD, UPDATE, WEIGHTS_KIND = "assign", "load", "update", "weights"


@dataclass(frozen=True, slots=True)
class Task:
    """One round of local training: where the model came from and the round it belongs to."""

    round: int
    parent: str
    model: Message


class Trainer(Role):
    """Trains with PyTorch Lightning on the worker's own dataset.

    Needs `build_module` and `build_data` of its context. With `coordinate` bound, a coordinator names the
    aggregator of each round; otherwise it is whoever distributes.
    """

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._offers: dict[str, Offer] = {}

    def run(self) -> None:
        """Train round after round until the end is announced."""
        self.prepare()
        self.join()
        if self.bound("coordinate"):
            load = Message(kind=LOAD, round=0, scalars={"samples": self.training.samples})
            self.channel("coordinate").send(load, self.channel("coordinate").spec.ends)
        while (task := self.next_task()) is not None:
            self.context.reporter.entered(task.round)
            update = self.train(task)
            self.perform("upload", task, update)

    def prepare(self) -> None:
        """Build module, data and Lightning trainer. Override to prepare more.

        Raises:
            BadModel: the worker has no model or no data.
        """
        if self.context.build_data is None:
            raise BadModel(f"{self.context.name} is a trainer without data: set model.data and give its role datasets")
        self.training = LocalTraining(self.context, build_seeded(self.context), self.context.build_data())

    def next_task(self) -> Task | None:
        """The next round of this trainer, or None at the end of the job."""
        parent = None
        if self.bound("coordinate"):
            parent = self.perform("coordinate")
            if parent is None:
                return None
        task: Task | None = self.perform("fetch", parent)
        return task

    @function("coordinate")
    def coordinate(self, channel: Channel) -> str | None:
        """The aggregator of the next round in which this trainer takes part; None at the end."""
        fetch = self.channel("fetch")
        while True:
            event = self.context.endpoint.receive([channel, fetch])
            if isinstance(event, Left):
                if not event.clean:
                    raise lost(event.end, event.reason)
            elif isinstance(event, Arrived) and event.channel == fetch.spec.name and event.offer.header.kind != END:
                self._offers[event.end] = event.offer
            elif isinstance(event, Arrived):
                message = event.offer.take()
                expect(message.kind, [ASSIGN, END], event.end)
                if message.kind == END:
                    return None
                parents = json.loads(str(message.scalars["ends"]))
                if parents:
                    return str(parents[0])

    @function("fetch")
    def fetch(self, channel: Channel, parent: str | None) -> Task | None:
        """The global model from `parent` (None: from whoever distributes), loaded into the module; None at the end."""
        offer = self._offers.pop(parent, None) if parent is not None else None
        while offer is None:
            event = channel.receive()
            if isinstance(event, Left):
                if not event.clean:
                    raise lost(event.end, event.reason)
            elif isinstance(event, Arrived):
                if event.offer.header.kind == END:
                    event.offer.accept()
                    return None
                if parent in (None, event.end):
                    offer = event.offer
                else:
                    self._offers[event.end] = event.offer
        expect(offer.header.kind, [WEIGHTS_KIND], offer.header.sender)
        message = offer.take()
        states.load_shared(self.training.module, message.groups)
        return Task(message.round, message.sender, message)

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
        samples = self.training.samples
        weight = float(samples) if share.weighted_by == "samples" else 1.0
        scalars = {"weight": weight, "samples": samples, "merged": False}
        return Message(kind=UPDATE, round=task.round, scalars=scalars, groups={WEIGHTS: groups[WEIGHTS]})

    @function("upload")
    def upload(self, channel: Channel, task: Task, update: Message) -> None:
        """Hand the update to the aggregator that sent the model; returns when it has taken it.

        Raises:
            RoleError: the aggregator refused it; the text is its reason.
            PeerLost: the aggregator is gone.
        """
        outcome = channel.send(update, [task.parent]).wait()[task.parent]
        if outcome.state == "refused":
            raise RoleError(f"{task.parent} refused the update of round {task.round}: {outcome.reason}")
        if outcome.state == "lost":
            raise lost(task.parent, outcome.reason)
