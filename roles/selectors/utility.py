"""The formulas of Oort, as pure functions."""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np


def clipped(utilities: Mapping[str, float], quantile: float) -> dict[str, float]:
    """Each utility, at most as large as the `quantile` of all of them (linear between neighbours)."""
    if not utilities:
        return {}
    bound = float(np.quantile(list(utilities.values()), quantile))
    return {end: min(value, bound) for end, value in utilities.items()}


def normalized(utilities: Mapping[str, float]) -> dict[str, float]:
    """Utilities on a scale from 0, the least, to 1, the greatest; where all are the same, 1."""
    least, most = min(utilities.values(), default=0.0), max(utilities.values(), default=0.0)
    return {end: (value - least) / (most - least) if most > least else 1.0 for end, value in utilities.items()}


def client_utility(statistical: float, *, round: int, last: int, seconds: float, preferred: float, alpha: float) -> float:
    """Oort's Util(i) = (U(i) + sqrt(0.1 ln R / L(i))) * (T / t_i) ** alpha if t_i > T, else without the last factor.

    Args:
        statistical: U(i), clipped.
        round: R, the round to choose for, from 1.
        last: L(i), the round in which the client took part last, from 1.
        seconds: t_i, how long the client took.
        preferred: T, the preferred duration of a round in seconds; infinite: no client is too slow.
        alpha: the penalty of stragglers.
    """
    utility = statistical + math.sqrt(0.1 * math.log(round) / last)
    return utility * (preferred / seconds) ** alpha if seconds > preferred else utility


def admitted(utilities: Mapping[str, float], count: int, share: float) -> list[str]:
    """The ends whose utility is at least `share` of that of the `count`-th best one, best first: at least `count` of them."""
    ranked = sorted(utilities, key=lambda end: utilities[end], reverse=True)
    if count < 1:
        return []
    bound = share * utilities[ranked[count - 1]]
    return [end for end in ranked if utilities[end] >= bound]


def relaxations(achieved: Mapping[int, float], before: int, step: int) -> int:
    """How often the pacer has relaxed before a round: every `step` rounds, if they achieved less utility than the `step` before.

    Args:
        achieved: round -> sum of the statistical utilities of those who took part.
        before: the round to choose for; only earlier ones count.
        step: W, rounds in a window.
    """
    windows = [sum(achieved.get(round, 0.0) for round in range(first, first + step)) for first in range(1, before - step + 1, step)]
    return sum(earlier > later for earlier, later in pairwise(windows))


def preferred_seconds(durations: Sequence[float], percentile: float) -> float:
    """T as a percentile (0 to 100) of the durations known; infinite at 100 and above, and where none is known."""
    if not durations or percentile >= 100:  # noqa: PLR2004 - per cent
        return math.inf
    return float(np.percentile(durations, percentile))
