"""Synthetic loan applications and a logistic regression that decides on them: plain Lightning, no word of fairness."""

import lightning.pytorch as lightning
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

SHARE = 0.4
"""Of applications that are from group 1."""


def applications(seed: int, number: int) -> TensorDataset:
    """x: (number, 4) group (0 or 1), income, savings, years in the job; y: (number,) 1 where the loan was granted.

    The groups apply with nearly the same means, but those who decided in the past were harder on group 1.
    """
    generator = torch.Generator().manual_seed(seed)
    group = (torch.rand(number, generator=generator) < SHARE).float()
    means = torch.randn(number, 3, generator=generator) - 0.2 * group[:, None]
    merit = means @ torch.tensor([1.0, 0.8, 0.4]) + 0.3
    granted = torch.rand(number, generator=generator) < torch.sigmoid(2 * (merit - 0.9 * group))
    return TensorDataset(torch.cat([group[:, None], means], dim=1), granted.long())


class Decisions(lightning.LightningModule):
    """Logistic regression: (N, 4) float features to (N, 1) logits of a loan being granted."""

    def __init__(self, learning_rate: float) -> None:
        super().__init__()
        self.learning_rate = learning_rate
        self.linear = nn.Linear(4, 1)

    def forward(self, x):
        return self.linear(x)

    def training_step(self, batch, batch_idx):
        x, y = batch
        return nn.functional.binary_cross_entropy_with_logits(self(x)[:, 0], y.float())

    def test_step(self, batch, batch_idx):
        x, y = batch
        logits, group = self(x)[:, 0], x[:, 0] == 1
        chance = torch.sigmoid(logits)
        self.log("loss", nn.functional.binary_cross_entropy_with_logits(logits, y.float()))
        self.log("accuracy", ((logits > 0) == (y == 1)).float().mean())
        # All test data is one batch, so that these are the gaps of all of it.
        self.log("parity_gap", chance[~group].mean() - chance[group].mean())
        self.log("opportunity_gap", chance[~group & (y == 1)].mean() - chance[group & (y == 1)].mean())

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=self.learning_rate)


class Applications(lightning.LightningDataModule):
    """2,000 applications to learn from, 1,000 to test on."""

    def __init__(self, batch_size: int = 32) -> None:
        super().__init__()
        self.batch_size = batch_size

    def setup(self, stage: str) -> None:
        self.train, self.test = applications(1, 2000), applications(2, 1000)

    def train_dataloader(self):
        return DataLoader(self.train, batch_size=self.batch_size, shuffle=True)

    def test_dataloader(self):
        return DataLoader(self.test, batch_size=1000)
