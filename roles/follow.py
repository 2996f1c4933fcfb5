"""What a worker does by what reaches it from above, as a pure state machine: models, a coordinator's word, the end.

No clock, no I/O: times are passed in, offers are only held. A model is taken once; where there is a coordinator, only
if it fits what the coordinator has said last.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from roles.kinds import ticket_of
from roles.presence import Presence, Stranded
from transports.base import Offer


@dataclass(frozen=True, slots=True)
class Assignment:
    """What the coordinator says of `round`: a trainer's parent, or the ends of an aggregator; empty: it sits the round out."""

    round: int
    ends: tuple[str, ...]
    parent: str | None = None
    """Of an aggregator: whose model it takes; None: of whoever distributes."""


@dataclass(frozen=True, slots=True)
class Take:
    """Take this model."""

    end: str
    offer: Offer


@dataclass(frozen=True, slots=True)
class Turn:
    """Turn this model away, for `reason`."""

    end: str
    offer: Offer
    reason: str


@dataclass(frozen=True, slots=True)
class Assigned:
    """The coordinator has given this worker something to do."""

    assignment: Assignment


@dataclass(frozen=True, slots=True)
class Over:
    """The job is over."""


@dataclass(frozen=True, slots=True)
class Await:
    """Wait for the next event, at most until `until` (None: for ever)."""

    until: float | None


Step = Take | Turn | Assigned | Over | Await | Stranded


class Follow:
    """Follows those above a worker.

    Args:
        parents: who may send models.
        coordinators: who says which model to take; empty: any.
        chosen_parent: whether an assignment names the parent, and not the ends below.
        timeouts: seconds for which parents and coordinators that are away are waited for.
        now: the time.
        obeys: whether a model is taken only if it fits what the coordinator has said; otherwise the oldest is.
    """

    def __init__(
        self,
        parents: Sequence[str],
        coordinators: Sequence[str],
        *,
        chosen_parent: bool,
        timeouts: tuple[float, float],
        now: float,
        obeys: bool = True,
    ) -> None:
        self.over = False
        self.assignment: Assignment | None = None
        self._parents = Presence(parents, now)
        self._coordinators = Presence(coordinators, now)
        self._coordinated = bool(coordinators)
        self._obeys = obeys
        self._chosen_parent = chosen_parent
        self._timeouts = timeouts
        self._new = False
        self._offers: dict[str, Offer] = {}

    def joined(self, end: str, *, coordinator: bool) -> None:
        """`end` is connected, for the first time or again."""
        (self._coordinators if coordinator else self._parents).joined(end)

    def left(self, end: str, reason: str, *, final: bool, coordinator: bool, now: float) -> None:
        """`end` is not connected any more; what it offered is lost with the connection."""
        (self._coordinators if coordinator else self._parents).left(end, reason, final=final, now=now)
        if not coordinator:
            self._offers.pop(end, None)

    def offered(self, end: str, offer: Offer) -> Offer | None:
        """`end` offers a model; returns the one that it replaces."""
        former = self._offers.pop(end, None)
        self._offers[end] = offer
        return former

    def assigned(self, assignment: Assignment) -> None:
        """The coordinator has spoken. The same word once more changes nothing."""
        if assignment != self.assignment:
            self.assignment = assignment
            self._new = True

    @property
    def tickets(self) -> list[str | None]:
        """Of the models that are offered."""
        return [ticket_of(offer.header.scalars) for offer in self._offers.values()]

    def end(self) -> None:
        """The job is over."""
        self.over = True

    def next(self, now: float, *, model: bool) -> Step:
        """What to do now: on the way to an assignment, or, with `model`, to the model that fits the one there is."""
        if self.over:
            return Over()
        if not (self._coordinated and self._obeys):
            return self._oldest() or self._wait(self._patience(now))
        turned = self._misfit()
        if turned is not None:
            return turned
        fitting = self._fitting()
        if self.assignment is not None and self._new:
            self._new = False
            if self.assignment.ends or model:
                return Assigned(self.assignment)
        if self.assignment is not None and fitting is not None:
            return self._take(fitting) if model else Assigned(self.assignment)
        return self._wait(self._patience(now))

    def _patience(self, now: float) -> float | Stranded | None:
        # Where there is a coordinator, lost parents are its affair.
        some, timeout = (self._coordinators, self._timeouts[1]) if self._coordinated else (self._parents, self._timeouts[0])
        return some.patience(now, timeout)

    def _oldest(self) -> Take | None:
        return self._take(next(iter(self._offers))) if self._offers else None

    def _take(self, end: str) -> Take:
        return Take(end, self._offers.pop(end))

    def _fitting(self) -> str | None:
        return next((end for end, offer in self._offers.items() if self._fits(end, offer)), None)

    def _misfit(self) -> Turn | None:
        """A model that no assignment can fit any more. One of a later round waits for its assignment."""
        if self.assignment is None:
            return None
        for end, offer in self._offers.items():
            if offer.header.round <= self.assignment.round and not self._fits(end, offer):
                del self._offers[end]
                return Turn(end, offer, self._why_not(offer.header.round))
        return None

    def _fits(self, end: str, offer: Offer) -> bool:
        assignment = self.assignment
        if assignment is None or not assignment.ends or offer.header.round != assignment.round:
            return False
        return end in assignment.ends if self._chosen_parent else assignment.parent in (None, end)

    def _why_not(self, round: int) -> str:
        assignment = self.assignment
        if assignment is None or round < assignment.round:
            return f"round {round} is over here"
        if not assignment.ends:
            return f"the coordinator has given it nothing to do in round {round}"
        return f"the coordinator has given it to {assignment.parent or assignment.ends[0]} in round {round}"

    @staticmethod
    def _wait(patience: float | Stranded | None) -> Await | Stranded:
        return patience if isinstance(patience, Stranded) else Await(patience)
