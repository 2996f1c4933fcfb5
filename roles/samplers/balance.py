"""The formulas of FedBalancer, as pure functions."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

HIGH_PERCENTILE = 80
"""Of a client's losses: what it reports as high, so that a few outliers do not set the threshold."""


def trainable(samples: int, *, batch_size: int, epochs: int, batch_seconds: float, budget: float) -> int:
    """How many samples can be trained on for `epochs` within `budget` seconds, in whole batches; at most `samples`."""
    seconds = epochs * batch_seconds
    if math.ceil(samples / batch_size) * seconds <= budget:
        return samples
    return min(int(max(budget, 0.0) / seconds) * batch_size, samples)


def chosen(losses: NDArray[np.float64], threshold: float, capacity: int, p: float, generator: Generator) -> NDArray[np.int64]:
    """The samples of a round (algorithm 1).

    All, where `capacity` is all. Else max(capacity, samples at or above the threshold), a part p of them from those at or above,
    the rest from those below; where one of the two groups has too few, the other makes up for it.

    Args:
        losses: float64 of shape (samples,); NaN: not known, counts as above.
        threshold: of the loss.
        capacity: how many samples the client can train on before the deadline.
        p: from 0 to 1.
        generator: draws within the groups.

    Returns:
        Indices in ascending order, int64, at least one.
    """
    samples = len(losses)
    if capacity >= samples:
        return np.arange(samples)
    below = losses < threshold
    under, over = np.flatnonzero(below), np.flatnonzero(~below)
    count = max(capacity, len(over), 1)
    # The product of floats may lie just below the number that is meant.
    easy = min(int((1 - p) * count + 1e-9), len(under))
    hard = min(count - easy, len(over))
    easy = count - hard
    return np.sort(np.concatenate([generator.permutation(under)[:easy], generator.permutation(over)[:hard]]))


def threshold_of(lows: Sequence[float], highs: Sequence[float], ratio: float) -> float:
    """The loss threshold (algorithm 2): min(lows) + (mean(highs) - min(lows)) * ratio."""
    low = min(lows)
    return low + (sum(highs) / len(highs) - low) * ratio


def stepped(benefits: Sequence[float], *, w: int, ratios: tuple[float, float], steps: tuple[float, float]) -> tuple[float, float]:
    """The ratios of threshold and deadline after a round (algorithm 3).

    Every w rounds, from 2 w on: where the last w rounds gained less than the w before, samples are chosen harder and rounds
    get shorter; else the other way.

    Args:
        benefits: of each round so far.
        w: rounds in a window.
        ratios: (ltr, ddlr), each from 0 to 1.
        steps: (lss, dss).
    """
    if len(benefits) < 2 * w or len(benefits) % w:
        return ratios
    fell = sum(benefits[-2 * w : -w]) > sum(benefits[-w:])
    threshold, deadline = ratios
    sign = 1 if fell else -1
    return min(max(threshold + sign * steps[0], 0.0), 1.0), min(max(deadline - sign * steps[1], 0.0), 1.0)


def peak(completions: Sequence[float]) -> float:
    """The deadline of the highest DDL-E (algorithm 4), clients that are done by then per second: one of the times given.

    Args:
        completions: when each client is expected to be done, seconds above 0, at least one.
    """
    order = sorted(completions)
    return max(enumerate(order, start=1), key=lambda ranked: ranked[0] / ranked[1])[1]
