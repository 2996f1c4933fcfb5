"""The floor of a job that trains: a plain PyTorch loop of the same work, in one process or several.

Each process trains its share of the clients one after the other, with one thread: it copies the global weights into one
model, makes a new optimizer, and takes the batches of its local epoch from tensors in memory. The weights come together in
shared memory, the first process averages them. At the end the global model is tested once. Imports are not counted;
reading the data, making the processes and the test are.

python -m tests.benchmarks.floors.training --network large --clients 4 --images 1000 --batch 32 --rounds 10 --processes 2
"""

import argparse
import json
import multiprocessing
import os
import time

import torch
from torch import Tensor, nn

from flame_run.data import load_arrays, locate
from tests.benchmarks.models import NETWORKS

LEARNING_RATE, MOMENTUM = 0.03, 0.9


def load(split: str) -> tuple[Tensor, Tensor]:
    """Images as float32 in [0, 1] of shape (N, 1, 28, 28), and labels."""
    x, y = load_arrays(locate("builtin://mnist-mini"), "train" if split == "train" else "test")
    return x.unsqueeze(1).float().div_(255), y


def train(network: nn.Module, x: Tensor, y: Tensor, batch: int) -> None:
    """One epoch with a new optimizer."""
    optimizer = torch.optim.SGD(network.parameters(), LEARNING_RATE, MOMENTUM)
    order = torch.randperm(len(x))
    for first in range(0, len(x), batch):
        chosen = order[first : first + batch]
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(x[chosen]), y[chosen]).backward()
        optimizer.step()


def flat(network: nn.Module) -> Tensor:
    """All parameters in one vector."""
    return nn.utils.parameters_to_vector(network.parameters()).detach()


def test(network: nn.Module) -> float:
    """Accuracy on the test part."""
    x, y = load("test")
    with torch.no_grad():
        right = sum(int((network(x[at : at + 500]).argmax(1) == y[at : at + 500]).sum()) for at in range(0, len(x), 500))
    return right / len(x)


def measure(given: argparse.Namespace) -> dict[str, float]:
    """Train; seconds of everything after the imports, and of the rounds alone."""
    began = time.perf_counter()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    network = NETWORKS[given.network]()
    shared = flat(network).share_memory_()
    slots = torch.empty(given.clients, len(shared)).share_memory_()
    barrier = multiprocessing.get_context("fork").Barrier(given.processes)
    children, rank = [], 0
    for each in range(1, given.processes):
        child = os.fork()
        if child == 0:
            rank = each
            break
        children.append(child)
    x, y = load("train")
    rounds_began = time.perf_counter()
    for _ in range(given.rounds):
        for client in range(rank, given.clients, given.processes):
            # A copy: the parameters become views of what they are given, and would train the model of all.
            nn.utils.vector_to_parameters(shared.clone(), network.parameters())
            mine = slice(client * given.images, (client + 1) * given.images)
            train(network, x[mine], y[mine], given.batch)
            slots[client] = flat(network)
        barrier.wait()
        if rank == 0:
            torch.mean(slots, 0, out=shared)
        barrier.wait()
    rounds = time.perf_counter() - rounds_began
    if rank:
        os._exit(0)
    nn.utils.vector_to_parameters(shared, network.parameters())
    accuracy = test(network)
    for child in children:
        os.waitpid(child, 0)
    return {"seconds": time.perf_counter() - began, "rounds": rounds, "accuracy": accuracy}


def main() -> None:
    """Measure and print JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--network", choices=sorted(NETWORKS), required=True)
    for name in ("clients", "images", "batch", "rounds", "processes"):
        parser.add_argument(f"--{name}", type=int, required=True)
    print(json.dumps(measure(parser.parse_args())))


if __name__ == "__main__":
    main()
