"""`topk`: the entries of largest magnitude, with their places."""

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override

from roles.codecs.stage import VALUES, Parts, Stage, finite
from roles.rounds.average import accumulator_dtype
from transports.message import TensorSpec

INDICES = "indices"


class TopK(Stage):
    """Keeps `fraction` of the entries exactly, at least one, and drops the others; of equal ones the first.

    Aji and Heafield, "Sparse Communication for Distributed Gradient Descent", EMNLP 2017. The memory of what was
    dropped is `roles.codecs.feedback`.
    """

    def __init__(self, fraction: float = 0.1) -> None:
        self._fraction = fraction

    @override
    def parts(self, spec: TensorSpec) -> dict[str, TensorSpec]:
        size = spec.nbytes // spec.dtype.itemsize
        kept = (max(1, round(self._fraction * size)),)
        places = torch.int32 if size <= torch.iinfo(torch.int32).max else torch.int64
        return {VALUES: TensorSpec(accumulator_dtype(spec.dtype), kept), INDICES: TensorSpec(places, kept)}

    @override
    def encode(self, value: Tensor, parts: Parts) -> None:
        flat, indices = value.view(-1), parts[INDICES]
        if finite(flat):
            indices.copy_(_largest(flat, indices.numel()))
            torch.index_select(flat, 0, indices, out=parts[VALUES])
        else:
            torch.arange(indices.numel(), out=indices)
            parts[VALUES].fill_(torch.nan)

    @override
    def decode(self, parts: Parts, out: Tensor) -> None:
        out.zero_().view(-1).index_copy_(0, parts[INDICES].long(), parts[VALUES])

    @override
    def add(self, parts: Parts, total: Tensor, factor: float) -> None:
        total.view(-1).index_add_(0, parts[INDICES], parts[VALUES], alpha=factor)

    @override
    def check(self, parts: Parts, spec: TensorSpec) -> str | None:
        indices, values = parts[INDICES], parts[VALUES]
        size = spec.nbytes // spec.dtype.itemsize
        if indices[0].item() < 0 or indices[-1].item() >= size or not bool((indices[1:] > indices[:-1]).all()):
            return f"has indices that do not ascend within 0 to {size - 1}"
        # Of another type only where a following stage has checked them.
        return None if not values.is_floating_point() or finite(values) else "has values that are not finite"


def _largest(flat: Tensor, count: int) -> Tensor:
    """Indices of the `count` elements of largest magnitude, ascending."""
    magnitude = flat.abs()
    # NumPy's selection is several times faster than torch's.
    array = magnitude.numpy()
    array.partition(array.size - count)
    least = array[array.size - count]
    torch.abs(flat, out=magnitude)
    largest = np.flatnonzero(array >= least)
    spare = largest.size - count
    if spare:
        equal = np.flatnonzero(array[largest] == least)
        largest = np.delete(largest, equal[-spare:])
    return torch.from_numpy(largest)
