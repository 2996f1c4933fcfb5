"""A network for clients that do not all have the same kind of data."""

from collections.abc import Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from flame_run import torchvision_guard

torchvision_guard.install()

from lightning.pytorch import LightningModule  # noqa: E402 - Lightning does not import before the guard

KINDS = ("image", "table")


class MnistViews(LightningModule):
    """An encoder for each kind of data, and one head for all of them: trained by SGD with momentum.

    Batches are maps as `flame_run.data.ViewDataModule` makes them: `image` of shape (B, 1, 28, 28), `table` of shape (B, 56), both
    float32, and `label` of shape (B,), int64. It trains on the first of its kinds and is tested on all of them: `loss` (nats
    per sample) and `accuracy` (0 to 1) are means over the kinds, `accuracy_KIND` is that of one.

    Entries begin with `image.`, `table.` and `head.`, so that `job.roles.ROLE.share` can say who exchanges what.

    Args:
        kinds: those that it has encoders for, out of `image` and `table`.
        learning_rate: step size of SGD.
        momentum: momentum of SGD; it starts anew with every optimizer, so with every round.

    Raises:
        ValueError: a kind that there is not, or none.
    """

    def __init__(self, kinds: Sequence[str], learning_rate: float, momentum: float = 0.9) -> None:
        super().__init__()
        if not kinds or not set(kinds) <= set(KINDS):
            raise ValueError(f"kinds must be some of {', '.join(KINDS)}, not {list(kinds)}")
        self.kinds = tuple(kinds)
        self.learning_rate = learning_rate
        self.momentum = momentum
        if "image" in kinds:
            convolutions = nn.Sequential(nn.Conv2d(1, 8, 5), nn.MaxPool2d(4), nn.ReLU(), nn.Flatten())
            self.image = nn.Sequential(convolutions, nn.Linear(288, 32), nn.ReLU())
        if "table" in kinds:
            self.table = nn.Sequential(nn.Linear(56, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU())
        self.head = nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 10))

    def forward(self, batch: Mapping[str, Tensor], kind: str) -> Tensor:
        """Map the data of one kind to logits of shape (B, 10)."""
        return cast("Tensor", self.head(self.get_submodule(kind)(batch[kind])))

    def training_step(self, batch: Mapping[str, Tensor], batch_idx: int) -> Tensor:  # noqa: ARG002 - Lightning's signature
        """Return the mean loss of a batch, a float32 scalar."""
        return nn.functional.cross_entropy(self(batch, self.kinds[0]), batch["label"])

    def sample_losses(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Return the loss of each sample, of shape (B,): for selectors and samplers that look at it."""
        return nn.functional.cross_entropy(self(batch, self.kinds[0]), batch["label"], reduction="none")

    def test_step(self, batch: Mapping[str, Tensor], batch_idx: int) -> None:  # noqa: ARG002
        """Log `loss`, `accuracy` and the accuracy of each kind."""
        labels = batch["label"]
        logits = {kind: self(batch, kind) for kind in self.kinds}
        right = {kind: (each.argmax(dim=1) == labels).float().mean() for kind, each in logits.items()}
        losses = torch.stack([nn.functional.cross_entropy(each, labels) for each in logits.values()])
        self.log_dict({f"accuracy_{kind}": value for kind, value in right.items()}, batch_size=len(labels))
        self.log("accuracy", torch.stack(list(right.values())).mean(), batch_size=len(labels))
        self.log("loss", losses.mean(), batch_size=len(labels))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return plain SGD."""
        return torch.optim.SGD(self.parameters(), lr=self.learning_rate, momentum=self.momentum)
