"""The weighted mean of states, accumulated in bounded memory."""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import ClassVar, Protocol

import numpy as np
import torch
from torch import Tensor

from roles.part import Single
from transports.message import Message, Scalar, Specs, TensorSpec

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

    whole: ClassVar[bool] = False
    """Whether updates have to be whole before they are added, however large they are."""

    def __init__(
        self,
        specs: Mapping[str, TensorSpec],
        allocate: Callable[[str, int, Specs], Message] = Message.allocate,
        *,
        more: Specs | None = None,
        names: Sequence[str] = (),
    ) -> None:
        """The sum of nothing.

        Args:
            specs: types of the weights; empty: updates hold none.
            allocate: makes the message that the sum lies in, of a kind, a round and types.
            more: types of further groups, summed in the same way.
            names: scalars of updates that are added up as they are.
        """
        self.specs = dict(specs)
        self.more = {group: dict(entries) for group, entries in (more or {}).items()}
        self.total = 0.0
        self.samples = 0
        self.count = 0
        self.updates = 0
        """Updates of data consumers that are in it, through any number of levels."""
        self.singles: list[Single] = []
        """What it is made of, where that is kept."""
        self.sums = dict.fromkeys(names, 0.0)
        self._partial: dict[str, float] = {}
        """Entry of the weights -> sum(n_i) of the updates that hold it, once there was one without it."""
        self.sums_specs: Specs = {group: _sum_specs(entries) for group, entries in self.groups.items()}
        """The types of the accumulator, and of a sum that was made elsewhere."""
        self.memory = allocate("update", 0, self.sums_specs)
        """The message that the sum lies in."""

    @property
    def groups(self) -> dict[str, Mapping[str, TensorSpec]]:
        """The types of what is summed: the weights, if there are any, and the further groups."""
        return {**({WEIGHTS: self.specs} if self.specs else {}), **self.more}

    @property
    def names(self) -> tuple[str, ...]:
        """The scalars that are added up."""
        return tuple(self.sums)

    @property
    def tensors(self) -> dict[str, Mapping[str, Tensor]]:
        """Group -> name -> the accumulator; the message that it lies in may hold more."""
        return {group: self.memory.groups[group] for group in self.groups}

    def add(
        self, groups: Mapping[str, Mapping[str, "Tensor | Addend"]], scalars: Mapping[str, Scalar], *, factor: float = 1.0
    ) -> None:
        """Add one update in place.

        Args:
            groups: the tensors of a worker (dtypes of `groups`), or, if its scalars say `merged`, a sum made elsewhere (dtypes of
                the accumulator); floating-point ones in another form where they came so.
            scalars: of the update: `weight`, n_i above 0, or sum(n_i) of a merged one; `samples`; `merged`: whether the tensors
                are multiplied by their weights already; `updates` of a merged one; and those that are added up.
            factor: what the update counts for besides its weight.
        """
        own = factor * (1.0 if scalars.get("merged") else float(scalars["weight"]))
        for group, values in groups.items():
            totals = self.memory.groups[group]
            for name, value in values.items():
                total, first = totals[name], self.first(group, name)
                if isinstance(value, Tensor):
                    accumulate(total, value, own, first=first)
                elif first:
                    value.write(total)
                    total.mul_(own)
                else:
                    value.add(total, own)
        self.count_in(scalars, groups.get(WEIGHTS, {}), factor=factor)

    def first(self, group: str, name: str) -> bool:
        """Whether no update in the sum holds the entry."""
        return self.count == 0 or (group == WEIGHTS and self._weight(name) == 0.0)

    def _weight(self, name: str) -> float:
        """sum(n_i) of the updates that hold the entry of the weights."""
        return self._partial.get(name, self.total)

    def count_in(self, scalars: Mapping[str, Scalar], entries: Collection[str], *, factor: float = 1.0) -> None:
        """Note that one more update, of these scalars and with these entries of the weights, is in the sum."""
        weight = factor * float(scalars["weight"])
        if len(entries) < len(self.specs) or self._partial:
            self._partial = {name: self._weight(name) + weight * (name in entries) for name in self.specs}
        self.total += weight
        self.samples += int(scalars["samples"])
        self.count += 1
        self.updates += int(scalars.get("updates", 1))
        for name in self.sums:
            self.sums[name] += float(scalars[name])

    def clear(self) -> None:
        """Begin anew: the next update is the first one."""
        self.total, self.samples, self.count, self.updates = 0.0, 0, 0, 0
        self.sums, self._partial = dict.fromkeys(self.sums, 0.0), {}

    def shift(self, name: str, reference: Tensor) -> None:
        """Make sum(n_i * (d_i + reference)) of the weights' entry `name`, which is sum(n_i * d_i)."""
        self.memory.groups[WEIGHTS][name].add_(reference, alpha=self._weight(name))

    def means(self) -> dict[str, dict[str, Tensor]]:
        """Group -> sum(n_i * x_i) / sum(n_i) in the accumulator's dtypes, without entries that no update holds.

        Uses up the accumulator: call it once.

        Raises:
            ZeroDivisionError: nothing was added.
        """
        if self.count == 0:
            raise ZeroDivisionError("the mean of no updates")
        found = {
            group: {name: value for name, value in totals.items() if not self.first(group, name)}
            for group, totals in self.tensors.items()
        }
        for group, totals in found.items():
            for name, value in totals.items():
                if averaged(value.dtype):
                    value.div_(self._weight(name) if group == WEIGHTS else self.total)
        return found

    def mean(self) -> dict[str, Tensor]:
        """The mean of the weights, as `means`."""
        return self.means()[WEIGHTS]

    def scalars(self, *, merged: bool) -> dict[str, Scalar]:
        """What an update says that is made of this sum, as it is (`merged`) or as its mean."""
        counted = {"weight": self.total, "samples": self.samples, "updates": self.updates}
        return {**counted, **self.sums, "merged": merged}

    def message(self, round: int) -> Message:
        """The sum as an update for the next level up; shares the accumulator's memory."""
        return self.memory.relabel(round=round, scalars=self.scalars(merged=True))


def _sum_specs(specs: Mapping[str, TensorSpec]) -> dict[str, TensorSpec]:
    return {name: TensorSpec(accumulator_dtype(spec.dtype), spec.shape) for name, spec in specs.items()}
