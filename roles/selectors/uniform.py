"""Selection by chance."""

from collections.abc import Sequence

from typing_extensions import override

from roles.catalogue import TRAITS
from roles.selectors.drawing import checked_share, draw, generator_of, in_plan_order, share_of
from roles.selectors.selector import Selection, Selector


class Random(Selector):
    """So many ends, each as likely as the other.

    McMahan et al., "Communication-Efficient Learning of Deep Networks from Decentralized Data", AISTATS 2017, algorithm 1:
    m = max(C * K, 1) clients per round at random; C defaults to 0.1. Needs nothing of the topology: an aggregator chooses among
    its own trainers. Flame's version is not seeded, and a k of 0 trains nobody there.

    Args:
        k: how many of the ends that are there: a number (m), or a fraction (C) in (0, 1]; 0.1 by default, the paper's C.

    Raises:
        ValueError: k is neither.
    """

    traits = TRAITS["roles.selectors.uniform.Random"]

    def __init__(self, *, k: float = 0.1) -> None:
        self.k = checked_share("selector.k", k)

    @override
    def select(self, round: int, ends: Sequence[str]) -> Selection:
        generator = generator_of(self.seed, "selector/random", round, ends)
        chosen = draw([1.0] * len(ends), share_of(self.k, len(ends)), generator)
        return Selection(ends=in_plan_order((ends[index] for index in chosen), ends))
