"""A tiny binary task whose groups differ: for the tests of FedGFT."""

from typing import Any

import torch
from lightning.pytorch import LightningDataModule, LightningModule
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

FEATURES = 3
"""The first column is the sensitive attribute."""


def people(seed: int, samples: int, *, share: float = 0.5) -> TensorDataset:
    """x float32 (samples, 3), y float32 (samples,), the attribute int64 (samples,), which is 1 for about `share` of them.

    Group 1 has the lower scores, and is marked positive less often than its scores deserve.
    """
    generator = torch.Generator().manual_seed(seed)
    group = torch.rand(samples, generator=generator) < share
    scores = torch.randn(samples, FEATURES - 1, generator=generator) - 0.5 * group[:, None]
    luck = torch.rand(samples, generator=generator)
    y = (luck < torch.sigmoid(1.5 * scores[:, 0] + scores[:, 1] + 0.5 - 1.5 * group)).float()
    x = torch.cat([group[:, None].float(), scores], 1)
    return TensorDataset(x, y, group.long())


class People(LightningDataModule):
    """`people` in shuffled batches (x, y), or (x, y, attribute)."""

    def __init__(self, seed: int, samples: int, *, batch_size: int = 16, share: float = 0.5, items: int = 2) -> None:
        super().__init__()
        self.batch_size = batch_size
        self.set = TensorDataset(*people(seed, samples, share=share).tensors[:items])

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.set, batch_size=self.batch_size, shuffle=True)


class Regression(LightningModule):
    """Logistic regression, or any other `net` with one or two logits."""

    def __init__(self, net: nn.Module | None = None, *, lr: float = 0.5, momentum: float = 0.0) -> None:
        super().__init__()
        self.net = nn.Linear(FEATURES, 1) if net is None else net
        self.lr, self.momentum = lr, momentum

    def forward(self, x: Tensor) -> Tensor:
        outputs: Tensor = self.net(x)
        return outputs

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return loss_of(self(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=self.lr, momentum=self.momentum)


def loss_of(outputs: Tensor, y: Tensor) -> Tensor:
    """Of one logit a sample, or of two."""
    if outputs.shape[1] == 1:
        return functional.binary_cross_entropy_with_logits(outputs[:, 0], y)
    return functional.cross_entropy(outputs, y.long())
