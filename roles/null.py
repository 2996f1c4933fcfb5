"""A trainer that trains nothing: a round of such trainers costs what the runner itself costs."""

from lightning.pytorch import LightningModule
from typing_extensions import override

from roles.fit import build_seeded
from roles.kinds import UPDATE
from roles.rounds.average import WEIGHTS
from roles.tags import RING_ALLREDUCE
from roles.trainer import Task, Trainer
from transports.message import Message


class NullTrainer(Trainer):
    """Returns the weights as they came, each round as a full copy of its own. Needs neither a module nor data.

    Each one counts as a single sample, so that the mean of such updates is the model itself.
    """

    @override
    def prepare(self) -> None:
        """Nothing to build."""

    @override
    def module(self) -> LightningModule:
        return build_seeded(self.context)

    @override
    def samples(self) -> int:
        return 1

    @override
    def load(self, message: Message) -> None:
        """There is no module to load it into."""

    @override
    def receive(self, task: Task) -> None:
        """There is nobody to show it to."""

    @override
    def take_back(self, task: Task) -> None:
        """Nothing was remembered."""

    @override
    def train(self, task: Task) -> Message:
        """A copy of the model's weights, in memory from which it can be sent at once."""
        weights = task.model.groups[WEIGHTS]
        scalars = {"weight": 1.0, "samples": 1, "merged": False}
        channel = self.channel("upload" if self.bound("upload") else RING_ALLREDUCE)
        update = channel.allocate(UPDATE, task.round, {WEIGHTS: task.model.specs[WEIGHTS]}, scalars=scalars)
        for name, copy in update.groups[WEIGHTS].items():
            if self.context.strategy.traits.differences:
                copy.zero_()
            else:
                copy.copy_(weights[name])
        return update
