"""`int8`: blocks of values as 8-bit integers times a scale of each block."""

from collections.abc import Iterator

import torch
from torch import Tensor
from typing_extensions import override

from roles.codecs.stage import CHUNK, VALUES, Parts, Stage
from roles.rounds.average import accumulator_dtype
from transports.message import TensorSpec

SCALES = "scales"
LARGEST = 127


class Int8(Stage):
    """Symmetric: q = round(x / s) in [-127, 127] with s = max|x| / 127 over each `block` consecutive values.

    Off by at most s / 2, up to float rounding; blocks of zeros stay zeros. Dettmers et al., "8-bit Optimizers via
    Block-wise Quantization", ICLR 2022, section 2.1, with linear steps.
    """

    def __init__(self, block: int = 256) -> None:
        self._block = block

    @override
    def parts(self, spec: TensorSpec) -> dict[str, TensorSpec]:
        values = TensorSpec(torch.int8, spec.shape)
        return {VALUES: values, SCALES: TensorSpec(accumulator_dtype(spec.dtype), (-(-values.nbytes // self._block),))}

    @override
    def encode(self, value: Tensor, parts: Parts) -> None:
        scales, flat = parts[SCALES], value.view(-1)
        for blocks, at in self._chunks(flat, scales):
            # Largest and smallest separately: neither needs memory of the whole chunk, as |x| would.
            torch.maximum(blocks.amax(dim=1), blocks.amin(dim=1).neg_(), out=scales[at])
        smallest = torch.finfo(scales.dtype).tiny
        scales.div_(LARGEST).clamp_(min=smallest)
        # Rounded towards zero, so that 127 of them are never more than the largest value.
        down = torch.nextafter(scales, torch.zeros_like(scales)).clamp_(min=smallest)
        torch.where(scales.isfinite(), down, scales, out=scales)
        inverse = scales.reciprocal()
        short = parts[VALUES].view(-1)
        for (blocks, at), (out, _) in zip(self._chunks(flat, scales), self._chunks(short, scales), strict=True):
            out.copy_(blocks.mul(inverse[at, None]).round_())

    @override
    def decode(self, parts: Parts, out: Tensor) -> None:
        scales = parts[SCALES]
        short = self._chunks(parts[VALUES].view(-1), scales)
        for (blocks, at), (target, _) in zip(short, self._chunks(out.view(-1), scales), strict=True):
            target.copy_(blocks).mul_(scales[at, None])

    @override
    def add(self, parts: Parts, total: Tensor, factor: float) -> None:
        scales = parts[SCALES]
        short = self._chunks(parts[VALUES].view(-1), scales)
        for (blocks, at), (target, _) in zip(short, self._chunks(total.view(-1), scales), strict=True):
            target.add_(blocks.to(total.dtype).mul_(scales[at, None]), alpha=factor)

    @override
    def check(self, parts: Parts, spec: TensorSpec) -> str | None:
        low, high = (extreme.item() for extreme in torch.aminmax(parts[SCALES]))
        if not 0 <= low <= high <= torch.finfo(parts[SCALES].dtype).max / LARGEST:
            return "has scales that are negative or too large, or values that are not finite"
        return None if parts[VALUES].amin() >= -LARGEST else f"has values below -{LARGEST}"

    def _chunks(self, flat: Tensor, scales: Tensor) -> Iterator[tuple[Tensor, slice]]:
        """`flat` as matrices of one block in each row with the rows' place among the scales; the last may be a shorter block."""
        whole = flat.numel() // self._block
        step = max(1, CHUNK // self._block)
        for start in range(0, whole, step):
            stop = min(start + step, whole)
            yield flat[start * self._block : stop * self._block].view(stop - start, self._block), slice(start, stop)
        if whole < scales.numel():
            yield flat[whole * self._block :].view(1, -1), slice(whole, whole + 1)
