"""How a coordinator maps workers to those of the level above: pure functions of names, loads and a seed."""

import random
from collections.abc import Mapping, Sequence

from roles import seeds

Candidates = Mapping[str, Sequence[str]]
"""Worker, such as a trainer -> the aggregators that it may be mapped to, both in the order of the plan."""


def assign(policy: str, candidates: Candidates, *, loads: Mapping[str, float], seed: int, round: int) -> dict[str, str]:
    """Trainer -> its middle aggregator in `round`; a trainer without candidates is left out.

    `random`: uniform and independent, from the job seed and the round. `round_robin`: the i-th trainer gets the
    (i + round - 1)-th of its candidates, so that everybody meets everybody. `balanced`: the trainer with the largest
    load first, each to the candidate with the least load so far (Graham's LPT rule); ties follow the plan.

    Raises:
        ValueError: an unknown policy.
    """
    able = {trainer: list(middles) for trainer, middles in candidates.items() if middles}
    if policy == "random":
        generator = random.Random(seeds.derive(seed, "assign", round))  # noqa: S311 - reproducible, not secret
        return {trainer: generator.choice(middles) for trainer, middles in able.items()}
    if policy == "round_robin":
        return {trainer: middles[(index + round - 1) % len(middles)] for index, (trainer, middles) in enumerate(able.items())}
    if policy == "balanced":
        return _balanced(able, loads)
    raise ValueError(f"unknown policy {policy!r}: random, round_robin or balanced")


def _balanced(able: Mapping[str, Sequence[str]], loads: Mapping[str, float]) -> dict[str, str]:
    carried: dict[str, float] = {middle: 0.0 for middles in able.values() for middle in middles}
    chosen: dict[str, str] = {}
    for trainer in sorted(able, key=lambda name: -loads.get(name, 0.0)):
        middle = min(able[trainer], key=lambda name: carried[name])
        carried[middle] += loads.get(trainer, 0.0)
        chosen[trainer] = middle
    return {trainer: chosen[trainer] for trainer in able}
