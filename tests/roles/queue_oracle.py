"""Buffered asynchronous averaging as an event-driven simulation: a heap of arrivals, no messages, float64."""

import heapq
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch
from lightning.pytorch import LightningDataModule

from roles import seeds
from tests.roles.oracle import State, train_locally

Sum = dict[str, np.ndarray[Any, Any]]


@dataclass(frozen=True)
class Sent:
    """What comes back from a model that was handed out."""

    at: float
    total: Sum
    weight: float
    count: int


class End(Protocol):
    """A trainer or an aggregator below another one."""

    name: str

    def task(self, at: float, model: State, round: int) -> Sent:
        """What becomes of the model of `round`, handed out `at`."""


@dataclass
class Leaf:
    """A trainer. `seconds`: what a task of a round takes, with both transfers."""

    name: str
    module: Any
    data: LightningDataModule
    seed: int
    seconds: Callable[[int], float]
    rounds: list[int] = field(default_factory=list)

    def task(self, at: float, model: State, round: int) -> Sent:
        self.rounds.append(round)
        self.module.load_state_dict(model)
        train_locally(self.module, self.data, seed=self.seed, worker=self.name, round=round, epochs=1)
        after = self.module.state_dict()
        total = {name: after[name].double().numpy() - value.double().numpy() for name, value in model.items()}
        return Sent(at + self.seconds(round), total, 1.0, 1)


@dataclass
class Node:
    """An aggregator with its buffer of `size`. `transfer`: round -> seconds to, or from, the one above."""

    name: str
    ends: Sequence[End]
    size: int
    a: float = 0.5
    transfer: Callable[[int], float] = lambda _: 0.0
    concurrency: int | None = None
    now: float = 0.0
    log: list[tuple[int, str, int]] = field(default_factory=list)
    """Round, end, and how old the model of its update was: in the order in which updates were added."""
    _heap: list[tuple[float, int, End, int, Sent]] = field(default_factory=list)
    _idle: list[End] = field(default_factory=list)
    _asks: int = 0

    def __post_init__(self) -> None:
        self._idle = list(self.ends)

    def task(self, at: float, model: State, round: int) -> Sent:
        sent = self.collect(at + self.transfer(round), model, round)
        return Sent(sent.at + self.transfer(round), sent.total, sent.weight, sent.count)

    def collect(self, at: float, model: State, round: int) -> Sent:
        """Fill the buffer once."""
        self.now = max(self.now, at)
        total: Sum = {name: np.zeros(tuple(value.shape)) for name, value in model.items()}
        weight, count, folded = 0.0, 0, list[End]()
        while len(folded) < self.size:
            for end in [end for end in self._idle if end not in folded]:
                if len(self._heap) < (self.concurrency or len(self.ends)):
                    self._idle.remove(end)
                    self._asks += 1
                    sent = end.task(self.now, model, round)
                    heapq.heappush(self._heap, (sent.at, self._asks, end, round, sent))
            arrived, _, end, made, sent = heapq.heappop(self._heap)
            self.now = max(self.now, arrived)
            factor = (1 + round - made) ** -self.a
            for name, value in sent.total.items():
                total[name] += factor * value
            weight, count = weight + factor * sent.weight, count + sent.count
            folded.append(end)
            self._idle.append(end)
            self.log.append((round, end.name, round - made))
        return Sent(self.now, total, weight, count)


def fedbuff(root: Node, module: Any, *, rounds: int, eta_g: float = 1.0) -> tuple[list[State], list[float]]:
    """The global state after each round, the initial one first, and when each round closed."""
    history = [{name: value.clone() for name, value in module.state_dict().items()}]
    times = []
    for round in range(1, rounds + 1):
        current = history[-1]
        sent = root.collect(root.now, current, round)
        following = {name: value.double().numpy() + eta_g * sent.total[name] / sent.count for name, value in current.items()}
        history.append({name: torch.from_numpy(np.asarray(following[name])).to(value.dtype) for name, value in current.items()})
        times.append(sent.at)
    return history, times


def built(build_module: Callable[[], Any], seed: int) -> Any:
    """The module as every worker builds it."""
    seeds.apply(seeds.derive(seed, "model"))
    return build_module()


def leaves(
    build_module: Callable[[], Any], data: Mapping[str, LightningDataModule], seed: int, seconds: Callable[[str, int], float]
) -> list[Leaf]:
    """A trainer for each worker of `data`; `seconds` takes a worker and a round."""
    return [Leaf(name, built(build_module, seed), own, seed, partial(seconds, name)) for name, own in data.items()]
