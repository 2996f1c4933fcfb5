"""A model whose training does not blow the last bit of a sum up: no ReLU, no pooling, so nothing flips."""

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn


class SmoothNet(LightningModule):
    """784-32-10 with tanh."""

    def __init__(self, learning_rate: float) -> None:
        super().__init__()
        self.learning_rate = learning_rate
        self.network = nn.Sequential(nn.Flatten(), nn.Linear(784, 32), nn.Tanh(), nn.Linear(32, 10))

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        result: Tensor = self.network(x)
        return result

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Cross-entropy."""
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Log the loss."""
        self.log("loss", nn.functional.cross_entropy(self(batch[0]), batch[1]))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """SGD with momentum, as the oracle's."""
        return torch.optim.SGD(self.parameters(), self.learning_rate, 0.9)
