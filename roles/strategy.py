"""The server half of an algorithm. A strategy is data and one or two pure functions; the round loop is not its business."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal

from roles.part import About, Gathered, Part, State
from transports.message import Specs

__all__ = ["About", "Buffer", "Gathered", "State", "Strategy"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Buffer:
    """How an aggregator of an asynchronous job collects: a round closes when so many updates came, whoever sent them."""

    size: int
    """Updates that close a round, K."""
    concurrency: int | None = None
    """Ends that train at the same time, M_c; None: all."""
    repeat: bool = False
    """Whether several updates of one end may count in the same round."""


class Strategy(Part, ABC):
    """What the root does with the mean of a round's updates; `client` is what trainers add to their training.

    Set `traits`. The step works on what `gathered` holds: entries that are `about.parameters` are optimised, the others are
    buffers, whose mean is their next value.
    """

    weighted_by: ClassVar[Literal["samples", "uniform"] | None] = None
    """How the algorithm weights updates, where that is not for `job.share.weightedBy` to say."""
    about: About
    """Set by `begin`."""

    def begin(self, about: About) -> None:
        """Once, before the first round and before `load_state_dict`, at the root."""
        self.about = about

    @abstractmethod
    def step(self, current: State, gathered: Gathered, round: int) -> State:
        """The next global state.

        Args:
            current: the global state that the round started from, in the module's dtypes; read only.
            gathered: the updates of the round; its tensors may be reused as the result.
            round: from 1.
        """

    def down(self) -> dict[str, State]:
        """Group -> tensors that go down with the model. Names and types are the same in every round; may be reused after `step`."""
        return {}

    def up_specs(self, model: Specs) -> Specs:  # noqa: ARG002 - for those that exchange more
        """Types of the groups besides `weights` that an update holds, from those of the model message (with `down`)."""
        return {}

    def surveyed(self, gathered: Gathered, round: int) -> None:
        """What the ends answered in the survey of `round`, at the root; only `sums` hold anything."""

    def buffer(self, *, root: bool) -> Buffer | None:  # noqa: ARG002 - for asynchronous ones
        """How an aggregator collects, the root or a middle one; None: synchronous rounds."""
        return None

    def staleness_weight(self, staleness: int) -> float:  # noqa: ARG002 - for asynchronous ones
        """What an update counts that was made from a model `staleness` rounds old (from 0), times its own weight. Above 0."""
        return 1.0
