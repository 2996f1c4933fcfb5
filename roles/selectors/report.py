"""What selectors that go by loss have their trainers report."""

import math
from typing import Any

from lightning.pytorch import LightningModule
from lightning.pytorch import Trainer as Lightning
from typing_extensions import override

from roles.losses import reported, sample_losses
from roles.part import Client, Local, Report, Update
from transports.message import Message

SAMPLES, LOSSES, SQUARES = "loss_samples", "loss_sum", "loss_squares"
"""Scalars of an update: samples of the first epoch, the sum of their losses, the sum of their squared losses."""


class LossReport(Client):
    """Reports the losses of the samples of a round's first epoch, each taken just before the sample is trained on.

    It costs one forward pass over the training data per round. See `roles.losses` for what the module must be like.
    """

    def __init__(self) -> None:
        self._samples, self._sum, self._squares = 0, 0.0, 0.0

    @override
    def receive(self, local: Local, model: Message) -> None:
        self._samples, self._sum, self._squares = 0, 0.0, 0.0

    @override
    def on_train_batch_start(self, trainer: Lightning, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if trainer.current_epoch == 0:
            losses = sample_losses(pl_module, batch)
            self._samples += len(losses)
            self._sum += float(losses.sum())
            self._squares += float(losses.square().sum())

    @override
    def finish(self, local: Local, update: Update) -> None:
        # Of a model that diverged there is nothing to say.
        if self._samples and math.isfinite(self._sum) and math.isfinite(self._squares):
            update.scalars |= {SAMPLES: self._samples, LOSSES: self._sum, SQUARES: self._squares}


def mean_loss(report: Report) -> float | None:
    """The mean loss of the samples; None where the update reports none."""
    samples, total = reported(report.scalars, SAMPLES), reported(report.scalars, LOSSES)
    return None if not samples or total is None else total / samples


def statistical_utility(report: Report) -> float | None:
    """Oort's |B| * sqrt(sum(loss ** 2) / |B|) over the samples; None where the update reports none."""
    samples, squares = reported(report.scalars, SAMPLES), reported(report.scalars, SQUARES)
    return None if not samples or squares is None else samples * math.sqrt(squares / samples)
