"""What the model of those who are left has to be: federated averaging as a plain loop over those that took part."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Subset

from flame_run.models.mlp import MnistMLP
from roles import seeds
from tests.chaos.shapes import BATCHES, Shape
from tests.e2e.oracle import subset, train

LEARNING_RATE, BATCH = 0.03, 32
TOLERANCE = 1e-5
"""How far sums in another order may be off; a trainer more or less makes a difference of 1e-3 and above."""


def sizes(here: Shape) -> Mapping[str, int]:
    """Trainer -> how many images it has."""
    return {trainer: len(_part(tuple(sorted(cut.items())))) for trainer, cut in here.cuts.items()}


def members(samples: float, everyone: frozenset[str], left: frozenset[str], here: Shape) -> frozenset[str] | None:
    """Who took part in a round of so many samples: all, or those that are left; None if it was neither."""
    known = sizes(here)
    for each in (everyone, left):
        if samples == sum(known[trainer] for trainer in each):
            return each
    return None


def predict(rounds: Sequence[frozenset[str]], here: Shape) -> dict[str, Tensor]:
    """The state of the global model after rounds with these trainers."""
    known = sizes(here)
    with _one_thread():
        torch.manual_seed(seeds.derive(0, "model"))
        model = MnistMLP(learning_rate=LEARNING_RATE)
        state = {name: value.clone() for name, value in model.state_dict().items()}
        for number, trainers in enumerate(rounds, start=1):
            total = {name: torch.zeros_like(value, dtype=torch.float64) for name, value in state.items()}
            for trainer in sorted(trainers):
                model.load_state_dict(state)
                seeds.apply(seeds.derive(0, trainer, number))
                optimizer = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE)
                part = _part(tuple(sorted(here.cuts[trainer].items())))
                train(model, DataLoader(part, batch_size=BATCH, shuffle=True), optimizer, BATCHES)
                for name, value in model.state_dict().items():
                    total[name] += value.double() * known[trainer]
            state = {name: (value / sum(known[each] for each in trainers)).float() for name, value in total.items()}
    return state


def distance(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> float:
    """The largest difference of two states."""
    return max(float((one[name] - other[name]).abs().max()) for name in one)


@cache
def _part(cut: tuple[tuple[str, object], ...]) -> Subset[tuple[Tensor, ...]]:
    return subset(dict(cut))


@contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        torch.set_num_threads(threads)
