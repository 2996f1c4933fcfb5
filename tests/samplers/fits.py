"""One trainer's rounds without a federation: its client half, its module, its data."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from lightning.pytorch import Trainer as Lightning
from torch import Tensor, nn

from roles import seeds
from roles.fit import QUIET
from roles.part import Local, Update
from roles.samplers.balancing import DEADLINE, THRESHOLD, Balancing
from tests.roles.specimens import Classifier, Points, mlp, points
from transports.message import Message, Scalar

SAMPLES, BATCH, SEED = 20, 5, 3


@dataclass
class Clock:
    """Goes on by a second with each batch that is trained on."""

    now: float = 100.0

    def __call__(self) -> float:
        return self.now


class Watched(Classifier):
    """Remembers what it is trained on; does not learn, unless told to."""

    def __init__(self, clock: Clock, net: nn.Module | None = None, lr: float = 0.0) -> None:
        super().__init__(net or mlp(), lr=lr)
        self.clock = clock
        self.seen: list[Tensor] = []

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        self.clock.now += 1.0
        self.seen.append(batch[0].clone())
        return super().training_step(batch, batch_idx)


@dataclass
class Fits:
    """A trainer with 20 samples in batches of 5."""

    epochs: int = 1
    p: float = 1.0
    noise_factor: float = 0.0
    compute: Callable[[int], float] | None = None
    clock: Clock = field(default_factory=Clock)
    data: Any = None
    lr: float = 0.0

    def __post_init__(self) -> None:
        seeds.apply(1)
        self.module = Watched(self.clock, lr=self.lr)
        self.client = Balancing(p=self.p, noise_factor=self.noise_factor, clock=self.clock)
        self.x = points(7, SAMPLES).tensors[0]
        self.local = Local(
            worker="trainer-0",
            module=self.module,
            data=self.data or Points(7, SAMPLES, batch_size=BATCH),
            parameters=dict(self.module.named_parameters()),
            samples=SAMPLES,
            seed=SEED,
            epochs=self.epochs,
            compute=self.compute,
        )
        self.client.begin(self.local)

    def round(self, number: int, *, threshold: float = 0.0, deadline: float | None = None) -> Update:
        """Train for one round; what is handed up."""
        self.module.seen.clear()
        scalars: dict[str, Scalar] = {THRESHOLD: threshold, **({} if deadline is None else {DEADLINE: deadline})}
        self.client.receive(self.local, Message(kind="model", round=number, scalars=scalars))
        seeds.apply(number)
        data = self.client.loader_data(self.local, number)
        Lightning(**QUIET, max_epochs=self.epochs, callbacks=[self.client]).fit(self.module, datamodule=data)
        update = Update(round=number, weights={}, weight=float(SAMPLES), samples=SAMPLES)
        self.client.finish(self.local, update)
        return update

    @property
    def trained_on(self) -> list[int]:
        """The samples of the last round, each as often as it was trained on."""
        return [int((self.x == row).all(1).nonzero()) for row in torch.cat(self.module.seen)]
