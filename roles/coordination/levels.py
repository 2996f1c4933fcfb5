"""Who works below whom in a coordinated round, level by level: pure functions of names, groups, loads and a seed."""

from collections.abc import Iterable, Mapping, Sequence

from roles import seeds
from roles.coordination.assign import Candidates, assign

Groups = Mapping[str, Mapping[str, str]]
"""Worker -> channel -> label."""


def candidates(levels: Sequence[Sequence[str]], groups: Groups) -> list[Candidates]:
    """For each level but the highest: worker -> those of the level above that it may work below, both in the order given.

    Only who has a way up to the highest level counts as somebody to work below.

    Args:
        levels: the workers that can take part, the highest level first.
        groups: of all of them.
    """
    able, found = list(levels[0]), list[Candidates]()
    for level in levels[1:]:
        found.append({one: [other for other in able if meet(groups[one], groups[other])] for one in level})
        able = [one for one, above in found[-1].items() if above]
    return found


def place(
    trainers: Mapping[str, str], levels: Sequence[Candidates], *, policy: str, loads: Mapping[str, float], seed: int, round: int
) -> dict[str, str]:
    """Worker -> whom it works below in `round`; an aggregator without ends has no place.

    Args:
        trainers: trainer -> its aggregator.
        levels: the candidates of each level of aggregators but the highest, the higher first.
        policy: see `assign`; loads of aggregators are the sums of those below.
        loads: of the trainers.
        seed: of the job.
        round: from 1.
    """
    placed, carried = dict(trainers), _carried(trainers, loads)
    for depth in reversed(range(len(levels))):
        busy = {one: above for one, above in levels[depth].items() if one in carried}
        own = seeds.derive(seed, "level", depth)
        level = assign(policy, busy, loads=carried, seed=own, round=round)
        placed |= level
        carried = _carried(level, carried)
    return placed


def ends_of_each(placed: Mapping[str, str], levels: Sequence[Iterable[str]]) -> dict[str, list[str]]:
    """Aggregator -> who works below it, in the order in which they were placed; an aggregator without ends is nobody's end.

    Args:
        placed: worker -> whom it works below.
        levels: all aggregators, the highest level first.
    """
    served: dict[str, list[str]] = {}
    for level in reversed(levels):
        of_level: dict[str, list[str]] = {aggregator: [] for aggregator in level}
        for one, above in placed.items():
            if above in of_level and served.get(one) != []:
                of_level[above].append(one)
        served |= of_level
    return served


def _carried(level: Mapping[str, str], loads: Mapping[str, float]) -> dict[str, float]:
    sums: dict[str, float] = {}
    for one, above in level.items():
        sums[above] = sums.get(above, 0.0) + loads.get(one, 0.0)
    return sums


def meet(one: Mapping[str, str], other: Mapping[str, str]) -> bool:
    """Whether two workers are in the same group of some channel."""
    return any(other.get(channel) == label for channel, label in one.items())
