"""Federated averaging as a plain PyTorch loop: no Lightning, no processes, no channels. What runs are compared with."""

from collections.abc import Mapping
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset, TensorDataset

from flame_run.data.arrays import load_arrays
from flame_run.data.partition import partition
from flame_run.data.urls import locate
from roles import seeds


def images(split: str) -> tuple[Tensor, Tensor]:
    """The shipped MNIST as (N, 1, 28, 28) float32 in [0, 1], and its labels."""
    x, y = load_arrays(locate("builtin://mnist-mini"), split)  # type: ignore[arg-type]
    return (x.float() / 255).reshape(-1, 1, 28, 28), y.long()


def subset(cut: Mapping[str, Any] | None, seed: int = 0) -> Subset[tuple[Tensor, ...]]:
    """The part of the training images that a dataset's `partition` names; None: all of them."""
    x, y = images("train")
    indices = np.arange(len(y))
    if cut is not None:
        options = {"alpha": cut["alpha"]} if "alpha" in cut else {}
        parts = partition(y.numpy(), strategy=cut["strategy"], of=cut["of"], seed=cut.get("seed") or seed, **options)
        indices = parts[cut["index"]]
    return Subset(TensorDataset(x, y), indices.tolist())


def fedavg(
    build: type[nn.Module],
    data: dict[str, Subset[tuple[Tensor, ...]]],
    *,
    rounds: int,
    seed: int = 0,
    batch_size: int = 32,
    learning_rate: float = 0.03,
    momentum: float = 0.9,
    batches: int | None = None,
) -> dict[str, Tensor]:
    """McMahan et al. 2017, algorithm 1, with full participation: the global state after `rounds` rounds."""
    torch.manual_seed(seeds.derive(seed, "model"))
    model = build(learning_rate=learning_rate)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    samples = {worker: len(part) for worker, part in data.items()}
    for round in range(1, rounds + 1):
        total = {name: torch.zeros_like(value, dtype=torch.float64) for name, value in state.items()}
        for worker, part in data.items():
            model.load_state_dict(state)
            seeds.apply(seeds.derive(seed, worker, round))
            optimizer = torch.optim.SGD(model.parameters(), lr=learning_rate, momentum=momentum)
            train(model, DataLoader(part, batch_size=batch_size, shuffle=True), optimizer, batches)
            for name, value in model.state_dict().items():
                total[name] += value.double() * samples[worker]
        state = {name: (value / sum(samples.values())).float() for name, value in total.items()}
    return state


def train(model: nn.Module, loader: DataLoader[Any], optimizer: torch.optim.Optimizer, batches: int | None) -> None:
    """One local epoch on cross-entropy, or its first `batches`."""
    model.train()
    for x, y in islice(loader, batches):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
