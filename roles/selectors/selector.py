"""The contract of a selector, and the one that takes everybody."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from typing_extensions import override

from roles.errors import RoundFailed
from roles.part import About, Part


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Who is asked in a round."""

    ends: tuple[str, ...]
    """In the order of the plan, at least one."""
    needed: int | None = None
    """The round closes with the first so many updates; None: as the policy of the job says."""


class EmptySelection(RoundFailed):
    """There is nobody whom a round could ask; the text names the round and says why. Nobody is at fault."""

    def __init__(self, text: str) -> None:
        super().__init__(text, lost=True)


class Selector(Part, ABC):
    """Chooses among the data consumers that an aggregator has as its ends. Works at each such aggregator by itself."""

    seed: int = 0
    """The job's, from `begin` on."""

    @override
    def begin(self, about: About) -> None:
        self.seed = about.seed

    @abstractmethod
    def select(self, round: int, ends: Sequence[str]) -> Selection:
        """Who takes part in `round` (from 1) of `ends`, which are there, in the order of the plan.

        Randomness comes from `roles.seeds` by the job seed and the round, so that a round that is done again takes the same.

        Raises:
            EmptySelection: nobody can be asked.
        """


class All(Selector):
    """Every end takes part in every round."""

    @override
    def select(self, round: int, ends: Sequence[str]) -> Selection:
        return Selection(ends=tuple(ends))
