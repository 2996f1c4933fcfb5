"""How long one local fit takes with Lightning as a trainer uses it, and a bare loop over the same batches beside it; and
how long a worker takes to make what it fits with.

python -m tests.benchmarks.fit_speed --batches 3 --repeat 5
"""

import argparse
import json
import time
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.utils.data import TensorDataset
from typing_extensions import override

from flame_run.data import ArrayDataModule
from flame_run.data.arrays import Split
from flame_run.data.module import ArrayDataset
from flame_run.models import MnistCNN
from roles.algorithms.fedavg import FedAvg
from roles.context import Context
from roles.fit import LocalTraining
from roles.settings import Settings
from transports.inproc import Hub, InprocEndpoint

BATCH = 20
FITS = 20
"""In one sample."""


class Nothing:
    """Takes reports and forgets them."""

    def prepared(self) -> None:
        """See `roles.context.Reporter`."""

    def entered(self, round: int) -> None:
        """See `roles.context.Reporter`."""

    def progress(self, epoch: int, epochs: int) -> None:
        """See `roles.context.Reporter`."""

    def metrics(self, round: int, values: Mapping[str, float]) -> None:
        """See `roles.context.Reporter`."""

    def result(self, values: Mapping[str, Any]) -> None:
        """See `roles.context.Reporter`."""


class Data(ArrayDataModule):
    """Random images, loaded as those of a file."""

    def __init__(self, images: int) -> None:
        super().__init__("", BATCH)
        x = torch.randint(0, 256, (images, 1, 28, 28), dtype=torch.uint8)
        self._images = ArrayDataset(x, torch.randint(0, 10, (images,)), torch.tensor(0.0), torch.tensor(1.0))

    @override
    def dataset(self, split: Split) -> ArrayDataset:
        return self._images


def bare(network: nn.Module, data: TensorDataset) -> None:
    """One epoch over tensors in memory with a new optimizer."""
    x, y = data.tensors
    optimizer = torch.optim.SGD(network.parameters(), 0.03, 0.9)
    order = torch.randperm(len(x))
    for first in range(0, len(x), BATCH):
        chosen = order[first : first + BATCH]
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(x[chosen]), y[chosen]).backward()
        optimizer.step()


def main() -> None:
    """Measure in one thread, in turn, and print JSON: seconds of each."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--batches", type=int, required=True)
    parser.add_argument("--repeat", type=int, default=5)
    given = parser.parse_args()
    torch.set_num_threads(1)
    images = BATCH * given.batches
    context = Context(
        name="trainer-0",
        role="trainer",
        index=0,
        endpoint=InprocEndpoint("trainer-0", Hub()),
        channels={},
        tags={},
        peers={},
        groups={},
        settings=Settings(),
        strategy=FedAvg(),
        reporter=Nothing(),
    )
    module, data = MnistCNN(0.03), Data(images)
    training, network = LocalTraining(context, module, data), MnistCNN(0.03).network
    plain = TensorDataset(torch.rand(images, 1, 28, 28), torch.randint(0, 10, (images,)))
    found: dict[str, list[float]] = {"bare": [], "fit": [], "made": []}
    for turn in range(given.repeat + 1):  # the first warms up
        began = time.perf_counter()
        for _ in range(FITS):
            bare(network, plain)
        middle = time.perf_counter()
        for each in range(FITS):
            training.fit(1 + turn * FITS + each)
        fitted = time.perf_counter()
        for _ in range(FITS):
            LocalTraining(context, module, data)
        if turn:
            spans = {"bare": middle - began, "fit": fitted - middle, "made": time.perf_counter() - fitted}
            for name, seconds in spans.items():
                found[name].append(seconds / FITS)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
