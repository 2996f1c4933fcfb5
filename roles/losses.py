"""The loss of single samples under the module as it is now, without a trace left in it."""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor
from torch.nn import functional

from roles.errors import BadModel
from transports.message import Scalar

WANTED = "define `sample_losses(self, batch)` in it: the losses of the samples of a batch, a float tensor of shape (B,)"


def sample_losses(module: LightningModule, batch: Any) -> Tensor:
    """The loss of each sample of a batch, by one forward pass in evaluation mode.

    `module.sample_losses(batch)` where the module has that method. Else the batch is (x, y) with integer class numbers y, the
    module maps x to logits of shape (B, classes, ...), and the loss is their cross entropy; where a sample has several labels
    (tokens, pixels), their mean.

    Neither the generators of torch nor buffers such as the statistics of BatchNorm change, and no gradient is kept.

    Args:
        module: on the device of the batch.
        batch: as the training step gets it.

    Returns:
        float64 of shape (B,), on the CPU.

    Raises:
        BadModel: the module is of neither kind; the text says what to define.
    """
    with _untouched(module):
        own = getattr(module, "sample_losses", None)
        losses = _cross_entropy(module, batch) if own is None else own(batch)
    name = type(module).__name__
    if not isinstance(losses, Tensor) or losses.ndim != 1 or not losses.is_floating_point():
        raise BadModel(f"{name}.sample_losses must return a float tensor of shape (B,), not {_shape(losses)}")
    return losses.detach().to(device="cpu", dtype=torch.float64)


@contextmanager
def _untouched(module: LightningModule) -> Iterator[None]:
    modes = [(part, part.training) for part in module.modules()]
    devices = [module.device] if module.device.type == "cuda" else []
    module.eval()
    try:
        with torch.random.fork_rng(devices=devices), torch.no_grad():
            yield
    finally:
        for part, training in modes:
            part.training = training


def _cross_entropy(module: LightningModule, batch: Any) -> Tensor:
    name = type(module).__name__
    if not isinstance(batch, list | tuple) or len(batch) != 2:  # noqa: PLR2004 - a pair
        raise BadModel(f"the losses of single samples are needed, and a batch of {name} is not a pair (x, y); {WANTED}")
    x, y = batch
    if not isinstance(y, Tensor) or y.is_floating_point() or y.is_complex():
        raise BadModel(f"the losses of single samples are needed, and the targets of {name} are no class numbers; {WANTED}")
    if type(module).forward is LightningModule.forward:
        raise BadModel(f"the losses of single samples are needed, and {name} has no forward(x); {WANTED}")
    logits = module(x)
    if not isinstance(logits, Tensor) or logits.ndim < 2 or logits.ndim != y.ndim + 1:  # noqa: PLR2004 - samples and classes
        reason = f"{name}(x) gives {_shape(logits)} for targets of shape {tuple(y.shape)}, not logits of shape (B, classes)"
        raise BadModel(f"the losses of single samples are needed, and {reason}; {WANTED}")
    losses = functional.cross_entropy(logits.float(), y.long(), reduction="none")
    return losses if losses.ndim == 1 else losses.flatten(1).mean(1)


def _shape(value: Any) -> str:
    return f"{value.dtype} of shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"


def reported(scalars: Mapping[str, Scalar], name: str, *, least: float = 0.0) -> float | None:
    """A finite number from `least` on that a message holds; None where it holds none: what comes from outside may be anything."""
    value = scalars.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < least:
        return None
    return float(value)
