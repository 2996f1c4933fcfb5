"""What the shipped image classifiers have in common."""

from typing import cast

import torch
from torch import Tensor, nn

from flame_run import torchvision_guard

torchvision_guard.install()

from lightning.pytorch import LightningModule  # noqa: E402 - Lightning does not import before the guard


class Classifier(LightningModule):
    """A network trained with cross-entropy by SGD with momentum.

    Batches are `(x, y)`: x in the network's input shape, y of shape (B,), int64 class numbers.
    Testing logs `loss` (nats per sample) and `accuracy` (0 to 1), training logs `train_loss`; all are means over the samples
    of an epoch. There is no validation step: Lightning would warn in each round that the shipped data has no validation part.
    """

    def __init__(self, network: nn.Module, *, learning_rate: float, momentum: float = 0.9, weight_decay: float = 0.0) -> None:
        """Wrap a network that maps a batch to logits of shape (B, classes).

        Args:
            network: Any module with that shape.
            learning_rate: Step size of SGD.
            momentum: Momentum of SGD; it starts anew with every optimizer, so with every round.
            weight_decay: L2 penalty of SGD.

        """
        super().__init__()
        self.network = network
        self.learning_rate = learning_rate
        self.momentum = momentum
        self.weight_decay = weight_decay
        self._losses: list[tuple[Tensor, int]] = []

    def forward(self, x: Tensor) -> Tensor:
        """Map a batch to logits of shape (B, classes)."""
        return cast("Tensor", self.network(x))

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:  # noqa: ARG002 - Lightning's signature
        """Return the mean loss of a batch, a float32 scalar."""
        x, y = batch
        loss = nn.functional.cross_entropy(self(x), y)
        self._losses.append((loss.detach(), len(y)))
        return loss

    def on_train_epoch_start(self) -> None:
        """Begin a new mean."""
        self._losses.clear()

    def on_train_epoch_end(self) -> None:
        """Log `train_loss`, once: to log every batch costs as much as a small step of training."""
        samples = sum(count for _, count in self._losses)
        if samples:
            self.log("train_loss", sum(loss * count for loss, count in self._losses) / samples)

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:  # noqa: ARG002
        """Log `loss` and `accuracy` of a batch."""
        x, y = batch
        logits = self(x)
        loss = nn.functional.cross_entropy(logits, y)
        accuracy = (logits.argmax(dim=1) == y).float().mean()
        self.log_dict({"loss": loss, "accuracy": accuracy}, on_step=False, on_epoch=True, batch_size=len(y))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return plain SGD."""
        return torch.optim.SGD(self.parameters(), self.learning_rate, self.momentum, weight_decay=self.weight_decay)
