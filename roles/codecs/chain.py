"""Two stages as one: the second works on the values that the first leaves."""

import torch
from torch import Tensor
from typing_extensions import override

from roles.codecs.stage import VALUES, Parts, Stage
from transports.message import TensorSpec


class Chain(Stage):
    """`first`, then `second` on the part `VALUES` of the first, such as the nearest bfloat16 of the largest entries."""

    def __init__(self, first: Stage, second: Stage) -> None:
        self._first = first
        self._second = second

    @override
    def parts(self, spec: TensorSpec) -> dict[str, TensorSpec]:
        first = self._first.parts(spec)
        return {**first, **self._second.parts(first[VALUES])}

    @override
    def encode(self, value: Tensor, parts: Parts) -> None:
        between = self._between(value, parts)
        self._first.encode(value, between)
        self._second.encode(between[VALUES], parts)

    @override
    def decode(self, parts: Parts, out: Tensor) -> None:
        self._first.decode(self._read(out, parts), out)

    @override
    def add(self, parts: Parts, total: Tensor, factor: float) -> None:
        self._first.add(self._read(total, parts), total, factor)

    @override
    def check(self, parts: Parts, spec: TensorSpec) -> str | None:
        return self._second.check(parts, self._first.parts(spec)[VALUES]) or self._first.check(parts, spec)

    def _between(self, like: Tensor, parts: Parts) -> dict[str, Tensor]:
        """Parts of the first stage, its values in memory of their own."""
        spec = self._first.parts(TensorSpec(like.dtype, tuple(like.shape)))[VALUES]
        return {**parts, VALUES: torch.empty(spec.shape, dtype=spec.dtype)}

    def _read(self, like: Tensor, parts: Parts) -> dict[str, Tensor]:
        between = self._between(like, parts)
        self._second.decode(parts, between[VALUES])
        return between
