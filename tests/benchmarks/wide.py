"""What the benchmark trains: a model of 5 MB, and a trainer that returns it unchanged."""

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from roles import Trainer
from roles.trainer import Task
from transports.message import Message


class Wide(LightningModule):
    """784-1,650-10: 1,311,760 parameters, 5 MB of float32."""

    def __init__(self, learning_rate: float = 0.01) -> None:
        super().__init__()
        self.learning_rate = learning_rate
        self.network = nn.Sequential(nn.Flatten(), nn.Linear(784, 1650), nn.ReLU(), nn.Linear(1650, 10))

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Cross-entropy."""
        return nn.functional.cross_entropy(self.network(batch[0]), batch[1])

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Log the loss."""
        self.log("loss", nn.functional.cross_entropy(self.network(batch[0]), batch[1]))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Plain SGD."""
        return torch.optim.SGD(self.parameters(), self.learning_rate)


class NullTrainer(Trainer):
    """Writes its own full copy of the weights as its update, and trains nothing."""

    def train(self, task: Task) -> Message:
        """The weights as they came."""
        scalars = {"weight": float(self.training.samples), "samples": self.training.samples, "merged": False}
        return Message("update", task.round, scalars=scalars, groups={"weights": task.model.groups["weights"]})
