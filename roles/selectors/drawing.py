"""How many ends a round asks, and drawing them."""

import math
from collections.abc import Iterable, Sequence
from fractions import Fraction

import numpy as np
from numpy.random import Generator

from roles import seeds


def checked_share(place: str, share: float) -> float:
    """A number of ends (an integer from 1) or a fraction of them (a float in (0, 1]).

    Raises:
        ValueError: it is neither; the text begins with `place`.
    """
    number = isinstance(share, int) and not isinstance(share, bool) and share >= 1
    if number or (isinstance(share, float) and 0 < share <= 1):
        return share
    raise ValueError(f"{place} must be a number of ends (1, 2, ...) or a fraction of them in (0, 1], not {share!r}")


def share_of(share: float, ends: int) -> int:
    """How many of `ends` a checked share means: max(C * K, 1) of McMahan et al. (2017), rounded down, at most all."""
    # By the decimal that was written: 0.29 of 100 ends are 29, though the floats' product is just below.
    wanted = int(Fraction(str(share)) * ends) if isinstance(share, float) else share
    return min(max(wanted, 1), ends)


def generator_of(seed: int, what: str, round: int, ends: Sequence[str]) -> Generator:
    """The generator of one choice: by the job seed, its purpose, the round, and who there is to choose from."""
    return np.random.default_rng(seeds.derive(seed, what, round, *ends))


def draw(weights: Sequence[float], count: int, generator: Generator) -> list[int]:
    """Draw `count` different indices, one after the other, each with a probability proportional to its weight.

    Indices of weight 0 come only when no others are left, then each as likely as the other. Efraimidis and Spirakis (2006),
    "Weighted random sampling with a reservoir": the largest values of u ** (1 / weight).

    Args:
        weights: finite, from 0.
        count: at most as many as there are weights.
        generator: gives one number for each weight.

    Returns:
        In the order in which they were drawn.
    """
    values = np.asarray(weights, dtype=np.float64)
    uniform = 1.0 - generator.random(len(values))
    keys = np.full(len(values), -np.inf)
    with np.errstate(over="ignore"):
        np.divide(np.log(uniform), values, out=keys, where=values > 0)
    return [int(index) for index in np.lexsort((-uniform, -keys))[:count]]


def in_plan_order(chosen: Iterable[str], ends: Sequence[str]) -> tuple[str, ...]:
    """Those of `ends` that were chosen, in the order of `ends`."""
    members = set(chosen)
    return tuple(end for end in ends if end in members)


def positive(place: str, value: float, *, most: float = math.inf) -> float:
    """A finite number in (0, `most`].

    Raises:
        ValueError: it is not one; the text begins with `place`.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= most or math.isinf(value):
        raise ValueError(f"{place} must be above 0{'' if math.isinf(most) else f' and at most {most:g}'}, not {value!r}")
    return value
