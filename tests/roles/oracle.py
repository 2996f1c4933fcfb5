"""Federated averaging as a plain PyTorch loop: no Lightning, no messages, means in NumPy's float64."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.nn import functional

from roles import seeds
from tests.roles.specimens import Classifier

State = dict[str, Tensor]


def train_locally(module: Classifier, data: LightningDataModule, *, seed: int, worker: str, round: int, epochs: int) -> None:
    """The local training of one round, in place."""
    seeds.apply(seeds.derive(seed, worker, round))
    trainable = [parameter for parameter in module.net.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(trainable, lr=module.lr, momentum=module.momentum)
    fit_with(module, data, optimizer, epochs)


def fit_with(module: Classifier, data: LightningDataModule, optimizer: torch.optim.Optimizer, epochs: int) -> None:
    """`epochs` over the training data with an optimizer."""
    module.train()
    loader = data.train_dataloader()
    for _ in range(epochs):
        for inputs, labels in loader:
            optimizer.zero_grad()
            functional.cross_entropy(module(inputs).float(), labels).backward()
            optimizer.step()


def mean(states: Sequence[State], weights: Sequence[float]) -> State:
    """The weighted mean of floating-point entries, the maximum of the others."""
    result: State = {}
    for name, like in states[0].items():
        if like.is_floating_point():
            stacked = np.stack([state[name].double().numpy() for state in states])
            value = np.tensordot(np.asarray(weights, dtype=np.float64) / np.sum(weights), stacked, axes=1)
        else:
            value = np.max(np.stack([state[name].numpy() for state in states]), axis=0)
        result[name] = torch.from_numpy(np.asarray(value)).to(like.dtype)
    return result


def fedavg(
    build_module: Callable[[], Any],
    data: Mapping[str, LightningDataModule],
    *,
    seed: int,
    rounds: int,
    epochs: int,
    uniform: bool = False,
    initial: State | None = None,
    takes_part: Callable[[int, str], bool] | None = None,
) -> list[State]:
    """The global state after each round, the initial one first. `data`: trainer -> its data, in the order of the plan.

    `takes_part`: whether a worker counts in a round; None: everybody always.
    """
    seeds.apply(seeds.derive(seed, "model"))
    module = cast("Classifier", build_module())
    if initial is not None:
        module.load_state_dict(initial)
    history = [{name: value.clone() for name, value in module.state_dict().items()}]
    for round in range(1, rounds + 1):
        states, weights = [], []
        for worker, own in data.items():
            if takes_part is not None and not takes_part(round, worker):
                continue
            module.load_state_dict(history[-1])
            train_locally(module, own, seed=seed, worker=worker, round=round, epochs=epochs)
            states.append({name: value.clone() for name, value in module.state_dict().items()})
            weights.append(1.0 if uniform else float(len(own.train_dataloader().dataset)))
        history.append(mean(states, weights))
    return history


def largest_difference(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> float:
    """The largest absolute difference of any value of two states with the same entries."""
    assert one.keys() == other.keys()
    return max(float((one[name].double() - other[name].double()).abs().max()) for name in one)


def same_bits(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    """Whether two states have the same entries with the same values, to the bit."""
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
