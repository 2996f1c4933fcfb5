"""Simulated time: how long workers would take, by a clock that only exists in messages.

Nobody sleeps. A model says when it was sent, an update when it came, and aggregators act as if things had happened at those
times. So stragglers can be studied on any machine, and asynchronous jobs come out the same to the bit.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True, slots=True)
class Span:
    """Seconds of one task of a worker."""

    compute: float
    network: float
    """Of each of its two transfers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Simulated:
    """How long workers take. Log-normal factors have a median of 1."""

    compute: float = 1.0
    """Seconds that a worker of factor 1 trains in a round."""
    network: float = 0.0
    """Seconds of each transfer of a worker of factor 1."""
    spread: float = 0.0
    """Sigma of the log-normal factor that each worker has for the whole job."""
    jitter: float = 0.0
    """Sigma of the log-normal factor of each worker and round."""
    workers: Mapping[str, float] = field(default_factory=dict)
    """Worker -> its factor, instead of a drawn one."""
    trace: Mapping[str, Mapping[int, Span]] = field(default_factory=dict)
    """Worker -> round -> what was measured; the last one before a round stands for it."""
    seed: int = 0

    def factor(self, worker: str) -> float:
        """How many times slower than one of factor 1 `worker` is."""
        return self.workers[worker] if worker in self.workers else self._draw(self.spread, worker, "speed")

    def span(self, worker: str, round: int) -> Span:
        """What `worker` takes in `round` (from 1)."""
        traced = self.trace.get(worker)
        if traced:
            return traced[max((each for each in traced if each <= round), default=min(traced))]
        factor = self.factor(worker) * self._draw(self.jitter, worker, round)
        return Span(self.compute * factor, self.network * factor)

    def task(self, worker: str, round: int, effort: float = 1.0) -> float:
        """Seconds from the model's handing out to the arrival of the update: both transfers and this part of the training."""
        span = self.span(worker, round)
        return effort * span.compute + 2 * span.network

    def transfer(self, worker: str, round: int) -> float:
        """Seconds of one transfer: of the model to a middle aggregator, or of its sum."""
        return self.span(worker, round).network

    def _draw(self, sigma: float, *what: str | int) -> float:
        if sigma == 0.0:
            return 1.0
        from roles import seeds  # noqa: PLC0415 - imports torch, which the settings do without

        return math.exp(sigma * np.random.default_rng(seeds.derive(self.seed, "simulated", *what)).standard_normal())
