"""`bf16` and `fp16`: each value rounded to the nearest of a shorter type."""

import torch
from torch import Tensor
from typing_extensions import override

from roles.codecs.stage import CHUNK, VALUES, Parts, Stage, finite
from transports.message import TensorSpec


class Cast(Stage):
    """Rounds to `dtype`: bfloat16 keeps 8 significant bits and the range, float16 keeps 11 bits up to 65504.

    A finite value beyond the range becomes the largest of the type. Relative error at most 2^-8 (bfloat16) or
    2^-11 (float16) of values in the type's normal range: half a unit in the last place.
    """

    def __init__(self, dtype: torch.dtype | None) -> None:
        """None: the tensor's own type."""
        self._dtype = dtype

    @override
    def parts(self, spec: TensorSpec) -> dict[str, TensorSpec]:
        return {VALUES: TensorSpec(self._dtype or spec.dtype, spec.shape)}

    @override
    def encode(self, value: Tensor, parts: Parts) -> None:
        short = parts[VALUES]
        short.copy_(value)
        if not finite(short) and finite(value):
            largest = torch.finfo(short.dtype).max
            short.copy_(value.clamp(-largest, largest))

    @override
    def decode(self, parts: Parts, out: Tensor) -> None:
        out.copy_(parts[VALUES])

    @override
    def add(self, parts: Parts, total: Tensor, factor: float) -> None:
        short, flat = parts[VALUES].view(-1), total.view(-1)
        for start in range(0, flat.numel(), CHUNK):
            flat[start : start + CHUNK].add_(short[start : start + CHUNK].to(flat.dtype), alpha=factor)

    @override
    def check(self, parts: Parts, spec: TensorSpec) -> str | None:
        return None if finite(parts[VALUES]) else "has values that are not finite"
