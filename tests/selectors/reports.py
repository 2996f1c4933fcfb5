"""Reports of made-up trainers."""

from collections.abc import Mapping, Sequence
from typing import TypeVar

import torch

from roles.part import About, Gathered, Report
from roles.selectors.report import LOSSES, SAMPLES, SQUARES
from roles.selectors.selector import Selector
from transports.message import Scalar

S = TypeVar("S", bound=Selector)
ENDS = tuple(f"trainer-{index}" for index in range(10))


def about(seed: int = 0, population: int = 10) -> About:
    return About(start={}, parameters=frozenset(), population=population, seed=seed)


def begun(selector: S, seed: int = 0) -> S:
    selector.begin(about(seed))
    return selector


def report(end: str, round: int, losses: Sequence[float], *, seconds: float = 1.0, samples: int | None = None) -> Report:
    """What a trainer says whose samples have these losses."""
    scalars: dict[str, Scalar] = {SAMPLES: len(losses), LOSSES: sum(losses), SQUARES: sum(loss * loss for loss in losses)}
    return Report(end=end, round=round, scalars=scalars, samples=samples or len(losses), seconds=seconds)


def gathered() -> Gathered:
    return Gathered(groups={"weights": {"w": torch.zeros(1)}}, weight=1.0, samples=1, count=1)


def play(
    selector: Selector, round: int, ends: Sequence[str], losses: Mapping[str, float], seconds: Mapping[str, float]
) -> list[str]:
    """One round in which everybody who is asked delivers; who was asked. `losses`: of each trainer's two samples."""
    chosen = list(selector.select(round, ends).ends)
    for end in chosen:
        selector.heard(report(end, round, [losses[end]] * 2, seconds=seconds[end]))
    selector.closed(gathered(), round)
    return chosen
