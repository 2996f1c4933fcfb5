"""The weighted mean of states, accumulated in bounded memory."""

from collections.abc import Callable, Mapping
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from transports.message import Message, Specs, TensorSpec

WEIGHTS = "weights"
"""Name of the tensor group that holds what is averaged."""


def accumulator_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype in which a sum over `dtype` is kept: at least float32; integers and bool stay themselves."""
    if dtype.is_complex:
        return torch.promote_types(dtype, torch.complex64)
    return torch.float32 if dtype.is_floating_point and dtype.itemsize < torch.float32.itemsize else dtype


def averaged(dtype: torch.dtype) -> bool:
    """Whether entries of `dtype` are averaged; the others follow the rule of `WeightedSum`."""
    return dtype.is_floating_point or dtype.is_complex


def computable(value: Tensor) -> Tensor:
    """`value` in a dtype that torch calculates with: 8-bit floats are for storage only."""
    return value.float() if value.is_floating_point() and value.dtype.itemsize == 1 else value


def accumulate(total: Tensor, value: Tensor, factor: float, *, first: bool) -> None:
    """Add `factor` times `value` to `total`, or write it there if it is the first; see `WeightedSum` for integers."""
    if not averaged(total.dtype):
        if first:
            total.copy_(value)
        else:
            # NumPy's, because torch has none for uint16, uint32 and uint64.
            np.maximum(total.numpy(), value.numpy(), out=total.numpy())
    elif not first:
        total.add_(computable(value), alpha=factor)
    elif value.dtype == total.dtype:
        torch.mul(value, factor, out=total)
    else:
        total.copy_(value).mul_(factor)


class Addend(Protocol):
    """A tensor in another form, which a sum takes in without a copy of the whole tensor."""

    def write(self, out: Tensor) -> None:
        """Write the values to `out`."""

    def add(self, total: Tensor, factor: float) -> None:
        """Add `factor` times the values to `total`."""


class WeightedSum:
    """Running sum(n_i * w_i) of states, one accumulator whatever the number of updates.

    Floating-point and complex entries are summed in at least float32, in the order of the calls, and divided
    once by sum(n_i) at the end. Integer and bool entries (counters such as BatchNorm's `num_batches_tracked`)
    take the largest value seen: exact, and the same in any order and through any number of levels.
    """

    def __init__(self, specs: Mapping[str, TensorSpec], allocate: Callable[[str, int, Specs], Message] = Message.allocate) -> None:
        """`allocate` makes the message that the sum lies in, of a kind, a round and types."""
        self.specs = dict(specs)
        self.sum_specs = {name: TensorSpec(accumulator_dtype(spec.dtype), spec.shape) for name, spec in specs.items()}
        self.total = 0.0
        self.samples = 0
        self.count = 0
        self.memory = allocate("update", 0, {WEIGHTS: self.sum_specs})
        """The message that the sum lies in."""

    def add(self, state: Mapping[str, "Tensor | Addend"], weight: float, samples: int, *, merged: bool) -> None:
        """Add one update in place.

        Args:
            state: the tensors of a worker (dtypes of `specs`), or, if `merged`, a sum made elsewhere (dtypes of `sum_specs`);
                floating-point ones in another form where they came so.
            weight: n_i, or sum(n_i) of a merged one. Greater than zero.
            samples: training samples behind it, for the record.
            merged: whether `state` is already multiplied by its weights.
        """
        factor = 1.0 if merged else float(weight)
        for name, total in self.memory.groups[WEIGHTS].items():
            value = state[name]
            if isinstance(value, Tensor):
                accumulate(total, value, factor, first=self.count == 0)
            elif self.count == 0:
                value.write(total)
                total.mul_(factor)
            else:
                value.add(total, factor)
        self.count_in(weight, samples)

    def count_in(self, weight: float, samples: int) -> None:
        """Note that one more update is in the sum."""
        self.total += weight
        self.samples += samples
        self.count += 1

    def clear(self) -> None:
        """Begin anew: the next update is the first one."""
        self.total, self.samples, self.count = 0.0, 0, 0

    def shift(self, name: str, reference: Tensor) -> None:
        """Make sum(n_i * (d_i + reference)) of the entry `name`, which is sum(n_i * d_i)."""
        self.memory.groups[WEIGHTS][name].add_(reference, alpha=self.total)

    def mean(self) -> dict[str, Tensor]:
        """sum(n_i * w_i) / sum(n_i) in the accumulator's dtypes. Uses up the accumulator: call it once.

        Raises:
            ZeroDivisionError: nothing was added.
        """
        if self.count == 0:
            raise ZeroDivisionError("the mean of no updates")
        state = dict(self.memory.groups[WEIGHTS])
        for value in state.values():
            if averaged(value.dtype):
                value.div_(self.total)
        return state

    def message(self, round: int) -> Message:
        """The sum as an update for the next level up; shares the accumulator's memory."""
        scalars = {"weight": self.total, "samples": self.samples, "merged": True}
        return self.memory.relabel(round=round, scalars=scalars)
