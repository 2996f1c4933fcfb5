"""Gaussian noise: from the system's cryptographic generator, or from the job's seed."""

import math
import os
from abc import ABC, abstractmethod
from typing import Final

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override

from roles import seeds

_BITS: Final = 53
"""Of a float64's fraction."""


class Noise(ABC):
    """A source of standard normal numbers."""

    @abstractmethod
    def draw(self, count: int) -> Tensor:
        """So many independent numbers of N(0, 1), float64."""

    def like(self, value: Tensor, std: float) -> Tensor:
        """N(0, std^2) for each number of `value`, float64, in its shape."""
        return self.draw(value.numel()).mul_(std).reshape(value.shape)


class SystemNoise(Noise):
    """From `os.urandom`: nobody can work it out afterwards, and no run repeats it.

    Box and Muller's transform of 53-bit uniform numbers.
    """

    @override
    def draw(self, count: int) -> Tensor:
        pairs = -(-count // 2)
        bits = np.frombuffer(os.urandom(16 * pairs), np.uint64) >> np.uint64(64 - _BITS)
        radius, angle = np.split((bits + 1.0) * 2.0**-_BITS, 2)
        length = np.sqrt(-2.0 * np.log(radius))
        normal = np.concatenate([length * np.cos(2 * math.pi * angle), length * np.sin(2 * math.pi * angle)])
        return torch.from_numpy(normal[:count])


class SeededNoise(Noise):
    """From the job's seed: the same in each run, and known to whoever knows the seed."""

    def __init__(self, seed: int, *what: str | int) -> None:
        """The stream of `what` in a job with `seed`."""
        self._generator = torch.Generator().manual_seed(seeds.derive(seed, *what))

    @override
    def draw(self, count: int) -> Tensor:
        return torch.randn(count, dtype=torch.float64, generator=self._generator)
