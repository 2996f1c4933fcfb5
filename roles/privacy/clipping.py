"""Clipping of a whole update to an L2 norm, and a clip that follows a quantile of those norms."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from roles.rounds.average import averaged


def real(value: Tensor) -> Tensor:
    """A view of `value` as real numbers: a complex one has two."""
    return torch.view_as_real(value) if value.is_complex() else value


def difference(weights: Tensor, received: Tensor) -> Tensor:
    """`weights - received` as float64 real numbers."""
    return real(weights).to(torch.float64) - real(received).to(torch.float64)


@torch.no_grad()
def update_norm(
    weights: Mapping[str, Tensor], received: Mapping[str, Tensor], further: Mapping[str, Mapping[str, Tensor]] | None = None
) -> float:
    """L2 norm, in float64, of an update as one vector: of all floating-point and complex entries; integers do not count.

    Args:
        weights: count by their differences from `received`.
        received: the weights that the update was made from.
        further: group -> name -> tensor of what goes up besides, which counts as it is.
    """
    squares = [float(difference(value, received[name]).square().sum()) for name, value in weights.items() if averaged(value.dtype)]
    for values in (further or {}).values():
        squares += [float(real(value).to(torch.float64).square().sum()) for value in values.values() if averaged(value.dtype)]
    return math.sqrt(math.fsum(squares))


@torch.no_grad()
def scaled(value: Tensor, scale: float, step: Tensor | None) -> Tensor:
    """`scale * value + step`, calculated in float64, as a new tensor of the dtype of `value`; `step` is real."""
    target = value.clone()
    numbers = real(value).to(torch.float64) * scale
    real(target).copy_(numbers if step is None else numbers.add_(step))
    return target


@torch.no_grad()
def moved(received: Tensor, step: Tensor) -> Tensor:
    """`received + step`, calculated in float64, as a new tensor of the dtype of `received`."""
    target = received.clone()
    real(target).copy_(real(received).to(torch.float64) + step)
    return target


def next_clip(clip: float, *, within: float, quantile: float, learning_rate: float) -> float:
    """The clip of the next round, by the geometric update of Andrew et al. 2021: C * exp(-eta_C * (b - gamma)).

    Args:
        clip: C, the clip of this round.
        within: b, the share of updates with a norm of at most C, as it was measured (with noise, so perhaps beyond 0 to 1).
        quantile: gamma.
        learning_rate: eta_C.
    """
    return clip * math.exp(-learning_rate * (within - quantile))


def multiplier_of_updates(noise_multiplier: float, count_noise: float) -> float:
    """z_Delta: the noise multiplier of updates which, with that of the count, costs what `noise_multiplier` alone would.

    Andrew et al. 2021, theorem 1: z_Delta = (z^-2 - (2 sigma_b)^-2)^(-1/2).

    Args:
        noise_multiplier: z, above 0.
        count_noise: sigma_b, the standard deviation of the noise on the count, above z / 2.
    """
    return 1 / math.sqrt(noise_multiplier**-2 - (2 * count_noise) ** -2)
