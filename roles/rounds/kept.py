"""The updates of a round one by one, beside their sum: for strategies that need all of them at once."""

from collections.abc import Mapping

import torch
from torch import Tensor
from typing_extensions import override

from roles.part import Single
from roles.rounds.average import WEIGHTS, Addend, WeightedSum
from transports.message import Scalar


class KeptSum(WeightedSum):
    """A sum that remembers what it is made of.

    It holds a copy of each update until the next round: as many models as the round has updates. Nothing is added before it
    came whole and was checked, so that what is kept is what counts.
    """

    whole = True

    @override
    def add(
        self, groups: Mapping[str, Mapping[str, Tensor | Addend]], scalars: Mapping[str, Scalar], *, factor: float = 1.0
    ) -> None:
        super().add(groups, scalars, factor=factor)
        copies = {
            group: {name: self._copy(group, name, value) for name, value in entries.items()} for group, entries in groups.items()
        }
        weight, samples = factor * float(scalars["weight"]), int(scalars["samples"])
        self.singles.append(Single(groups=copies, weight=weight, samples=samples, scalars=dict(scalars)))

    @override
    def clear(self) -> None:
        super().clear()
        self.singles.clear()

    @override
    def shift(self, name: str, reference: Tensor) -> None:
        super().shift(name, reference)
        for single in self.singles:
            value = single.groups[WEIGHTS].get(name)
            if value is not None:
                value.add_(reference)

    def _copy(self, group: str, name: str, value: Tensor | Addend) -> Tensor:
        """In memory of its own: what came is its sender's, or its transport's."""
        spec = self.sums_specs[group][name]
        copy = torch.empty(spec.shape, dtype=spec.dtype)
        if isinstance(value, Tensor):
            return copy.copy_(value)
        value.write(copy)
        return copy
