"""The contract of a codec's stages: how one tensor is written in fewer bytes, and read back."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping

import torch
from torch import Tensor

from transports.message import TensorSpec

VALUES = "values"
"""Name of the part that takes the place of the tensor; what a following stage works on."""

CHUNK = 2**18
"""Elements that are worked on at a time: they stay in the processor's cache between two steps."""

Parts = Mapping[str, Tensor]
"""Part name -> its tensor, contiguous, in host memory."""


class Stage(ABC):
    """Writes a tensor as a few parts of fixed types. Keeps nothing from call to call.

    What it is given to encode, decodes to and adds to is contiguous, in host memory and of float32 or float64.
    """

    @abstractmethod
    def parts(self, spec: TensorSpec) -> dict[str, TensorSpec]:
        """Types of the parts of a tensor of type `spec`, which is floating-point and has elements; `VALUES` among them."""

    @abstractmethod
    def encode(self, value: Tensor, parts: Parts) -> None:
        """Write `value` to `parts`. One that is not finite becomes parts that `check` refuses."""

    @abstractmethod
    def decode(self, parts: Parts, out: Tensor) -> None:
        """Write what `parts` stand for to `out`."""

    @abstractmethod
    def add(self, parts: Parts, total: Tensor, factor: float) -> None:
        """Add `factor` times what `parts` stand for to `total`, without a decoded copy of all of it."""

    @abstractmethod
    def check(self, parts: Parts, spec: TensorSpec) -> str | None:
        """Why `parts` of the right types do not stand for finite values of type `spec`; None if they do."""


def finite(value: Tensor) -> bool:
    """Whether all elements are finite: NaN and infinity show in the smallest or the largest."""
    if value.numel() == 0:
        return True
    low, high = torch.aminmax(value)
    return math.isfinite(low.item()) and math.isfinite(high.item())
