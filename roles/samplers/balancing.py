"""The client half of FedBalancer: keeps the losses of its samples, and chooses among them."""

import random
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningDataModule, LightningModule
from lightning.pytorch import Trainer as Lightning
from numpy.typing import NDArray
from torch.utils.data import DataLoader
from typing_extensions import override

from roles import seeds
from roles.errors import BadModel
from roles.losses import reported, sample_losses
from roles.part import Client, Local, Update
from roles.samplers.balance import HIGH_PERCENTILE, chosen, trainable
from roles.samplers.subset import Recorded, in_order, over, why_whole
from transports.message import Message

THRESHOLD, DEADLINE = "fedbalancer_threshold", "fedbalancer_deadline"
"""Scalars of a model: the loss threshold, and the seconds until the round closes; without one there is no deadline."""
LOW, HIGH = "fedbalancer_low", "fedbalancer_high"
"""Scalars of an update: the least loss of the client's samples and their 80th percentile, both with noise."""
LOSS_SUM, LOSSES = "fedbalancer_loss_sum", "fedbalancer_losses"
"""The sum of the losses of the chosen samples, and how many they are."""
EPOCH_SECONDS, EPOCHS_DONE, EPOCHS = "fedbalancer_epoch_seconds", "fedbalancer_epochs_done", "fedbalancer_epochs"
"""How long an epoch took, how many were done, and how many there are in a round."""
REMEMBERED = 5
"""Rounds whose times are averaged."""


class Balancing(Client):
    """Trains on samples whose loss is at least the threshold, as many as fit the deadline.

    `train_dataloader()` of the data module gives the chosen samples from `loader_data` to `finish`, all of them otherwise. After an
    epoch after which the next one would not end before the deadline, training ends.

    Args:
        p: which part of the samples comes from those at or above the threshold.
        noise_factor: standard deviation of the Gaussian noise on the losses that are reported.
        clock: seconds, where the job has no virtual clock.
    """

    def __init__(self, *, p: float, noise_factor: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._p, self._noise_factor, self._clock = p, noise_factor, clock
        self._losses: NDArray[np.float64] = np.empty(0)
        self._times: list[tuple[float, float]] = []
        """Of the last rounds: seconds per batch, and seconds before and after training."""
        self._threshold = 0.0
        self._deadline: float | None = None
        self._chosen: NDArray[np.int64] | None = None
        self._record: Recorded | None = None
        self._came = self._began = self._trained = 0.0
        self._batches = self._epochs = self._seen = 0
        self._all_batches = 1
        """Of a whole round's training."""
        self._batch_seconds: float | None = None
        """By the virtual clock; None: where there is none."""

    @override
    def begin(self, local: Local) -> None:
        original = local.data.train_dataloader
        reason = why_whole(original())
        if reason is not None:
            raise BadModel(f"sampler fedbalancer cannot choose samples of train_dataloader(): {reason}")
        if len(self._losses) != local.samples:
            self._losses = np.full(local.samples, np.nan)

        def train_dataloader() -> DataLoader[Any]:
            loader: DataLoader[Any] = original()
            if self._chosen is not None:
                loader, self._record = over(loader, self._chosen.tolist())
            return loader

        local.data.train_dataloader = train_dataloader  # type: ignore[method-assign]

    @override
    def receive(self, local: Local, model: Message) -> None:
        self._came = self._clock()
        self._threshold = reported(model.scalars, THRESHOLD) or 0.0
        self._deadline = reported(model.scalars, DEADLINE)
        self._batches = self._epochs = self._seen = 0
        self._trained = 0.0

    @override
    def loader_data(self, local: Local, round: int) -> LightningDataModule:
        self._chosen = None
        loader = local.data.train_dataloader()
        if self._threshold > 0 and np.isnan(self._losses).all():
            self._look_at(local.module, loader)
        generator = np.random.default_rng(seeds.derive(local.seed, local.worker, round, "fedbalancer"))
        self._all_batches = local.epochs * len(loader)
        self._batch_seconds = None if local.compute is None else local.compute(round) / self._all_batches
        capacity = self._capacity(local, loader.batch_size or 1)
        self._chosen = chosen(self._losses, self._threshold, capacity, self._p, generator)
        return local.data

    def _capacity(self, local: Local, batch_size: int) -> int:
        if self._deadline is None:
            return local.samples
        per_batch, around = self._batch_seconds, 0.0
        if per_batch is None:
            if not self._times:
                return 0
            per_batch, around = (sum(each) / len(self._times) for each in zip(*self._times, strict=True))
        budget = self._deadline - around
        return trainable(local.samples, batch_size=batch_size, epochs=local.epochs, batch_seconds=per_batch, budget=budget)

    def _look_at(self, module: LightningModule, loader: DataLoader[Any]) -> None:
        """Take the losses of all samples under the model as it came: of a client that joins when there is a threshold."""
        with _generators_kept():
            first = 0
            for batch in in_order(loader):
                losses = sample_losses(module, module.transfer_batch_to_device(batch, module.device, 0))
                self._losses[first : first + len(losses)] = losses.numpy()
                first += len(losses)

    @override
    def on_train_start(self, trainer: Lightning, pl_module: LightningModule) -> None:
        self._began = self._clock()

    @override
    def on_train_batch_start(self, trainer: Lightning, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self._batches += 1
        if trainer.current_epoch == 0 and self._chosen is not None and self._record is not None:
            losses = sample_losses(pl_module, batch).numpy()
            # The sampler may be some batches ahead of the training.
            positions = self._record.drawn[self._seen : self._seen + len(losses)]
            self._losses[self._chosen[positions]] = losses
            self._seen += len(losses)

    @override
    def on_train_epoch_end(self, trainer: Lightning, pl_module: LightningModule) -> None:
        self._epochs += 1
        now = self._clock()
        virtual = None if self._batch_seconds is None else self._batches * self._batch_seconds
        self._trained, gone = (now - self._began, now - self._came) if virtual is None else (virtual, virtual)
        if self._deadline is not None and gone + self._trained / self._epochs > self._deadline:
            trainer.should_stop = True

    @override
    def finish(self, local: Local, update: Update) -> None:
        indices, self._chosen = self._chosen, None
        if indices is None or not self._batches:
            return
        update.effort *= self._batches / self._all_batches
        if update.weight == update.samples:
            update.weight = float(len(indices))
        update.samples = len(indices)
        update.scalars |= self._report(local, update.round, self._losses[indices])
        if self._batch_seconds is None:
            around = self._clock() - self._came - self._trained
            self._times = [*self._times, (self._trained / self._batches, around)][-REMEMBERED:]

    def _report(self, local: Local, round: int, losses: NDArray[np.float64]) -> dict[str, float]:
        known, of_chosen = self._losses[~np.isnan(self._losses)], losses[~np.isnan(losses)]
        values = {EPOCH_SECONDS: self._trained / max(self._epochs, 1), EPOCHS_DONE: self._epochs, EPOCHS: local.epochs}
        if np.isfinite(known).all() and len(of_chosen):
            noise = np.random.default_rng(seeds.derive(local.seed, local.worker, round, "fedbalancer/noise"))
            low, high = np.array([known.min(), np.percentile(known, HIGH_PERCENTILE)]) + noise.normal(0, self._noise_factor, 2)
            values |= {LOW: float(low), HIGH: float(high), LOSS_SUM: float(of_chosen.sum()), LOSSES: float(len(of_chosen))}
        return values

    @override
    def state_dict(self) -> dict[str, Any]:
        return {"losses": torch.from_numpy(self._losses.copy()), "times": [list(each) for each in self._times]}

    @override
    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        self._losses = state_dict["losses"].numpy().copy()
        self._times = [(float(batch), float(around)) for batch, around in state_dict["times"]]


@contextmanager
def _generators_kept() -> Iterator[None]:
    """Let nobody see what is drawn from the global generators meanwhile."""
    own, legacy = random.getstate(), np.random.get_state()  # noqa: NPY002 - users' transforms draw from the legacy generator
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        random.setstate(own)
        np.random.set_state(legacy)  # noqa: NPY002
