"""`delta`: the difference to the model that was received, which both sides know to the bit.

The receiver sums differences and adds the model once, to the sum: `WeightedSum.shift`.
"""

import torch
from torch import Tensor


def difference(value: Tensor, reference: Tensor, out: Tensor) -> None:
    """Write `value` - `reference` to `out`, in its type."""
    if value.dtype == reference.dtype == out.dtype:
        torch.sub(value, reference, out=out)
    else:
        out.copy_(value).sub_(reference)
