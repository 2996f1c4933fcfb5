"""What tests of local training share: a worker's training with options of Lightning's Trainer, and what a round is to give."""

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningDataModule, LightningModule
from lightning.pytorch import Trainer as Lightning
from torch import Tensor

from roles import seeds
from roles.algorithms.fedavg import FedAvg
from roles.context import Context
from roles.fit import QUIET, LocalTraining
from roles.fitters import Fitters
from roles.settings import Settings
from tests.roles.federation import Record, Reporter
from tests.roles.specimens import mlp
from transports.inproc import Hub, InprocEndpoint

ROUNDS = (1, 2, 3)
SEED = 5


def context_of(
    name: str = "trainer-0",
    options: Mapping[str, Any] | None = None,
    *,
    epochs: int = 2,
    fitters: Fitters | None = None,
    folder: Path | None = None,
) -> Context:
    return Context(
        name=name,
        role="trainer",
        index=0,
        endpoint=InprocEndpoint(name, Hub()),
        channels={},
        tags={},
        peers={},
        groups={},
        settings=Settings(seed=SEED, epochs=epochs),
        strategy=FedAvg(),
        reporter=Reporter(Record()),
        build_trainer_options=lambda: dict(options or {}),
        fitters=fitters or Fitters(),
        own_folder=folder,
    )


def network() -> torch.nn.Sequential:
    """The same in every call."""
    torch.manual_seed(3)
    return mlp()


def state_of(module: LightningModule) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def equal(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    """Bit by bit."""
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


def alone(
    module: LightningModule, data: LightningDataModule, round: int, callbacks: Sequence[Callback], *, epochs: int
) -> dict[str, Tensor]:
    """The state of a copy of `module` after one fit of a Lightning trainer made for it; `module` stays as it is."""
    copied = copy.deepcopy(module)
    seeds.apply(seeds.derive(SEED, "trainer-0", round))
    Lightning(**QUIET, max_epochs=epochs, callbacks=list(callbacks)).fit(copied, datamodule=data)
    return state_of(copied)


def rounds_of(training: LocalTraining) -> list[dict[str, Tensor]]:
    """The module's state after each of the rounds."""
    states = []
    for round in ROUNDS:
        training.fit(round)
        states.append(state_of(training.module))
    return states
