"""Who works for whom in an asynchronous job with a coordinator, as a pure state machine: what happens goes in, loans come out.

No clock, no I/O: times are passed in, and are only compared. A trainer is idle, lent to one aggregator, away or gone.
"""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

State = Literal["idle", "lent", "away", "gone"]


@dataclass(frozen=True, slots=True)
class Loan:
    """`trainer` works for `asker` from now on; `number` tells this loan from all others."""

    number: str
    trainer: str
    asker: str


@dataclass(slots=True)
class _Asker:
    """What is known of an aggregator."""

    room: int = 0
    without: Collection[str] = ()
    since: float = 0.0
    """When it began to want more than it has."""
    starving: bool = False
    """Whether it was told that nobody is to be expected."""


@dataclass(slots=True)
class _Trainer:
    """What is known of a trainer."""

    state: State = "away"
    since: float = 0.0
    """When it became idle."""
    loan: Loan | None = None


class Lending:
    """Lends idle trainers to aggregators that ask.

    Whoever has the fewest trainers is served first, of these the one that has waited longest, then by the order of the plan;
    it gets the trainer that has been idle longest, then by the order of the plan.

    Args:
        meets: asker -> the trainers that share a group with it, all in the order of the plan.
        trainers: all of them, in the order of the plan.
        prefix: begins the numbers of loans: those of a coordinator that was started anew must be others.
    """

    def __init__(self, meets: Mapping[str, Collection[str]], trainers: Sequence[str], *, prefix: str = "") -> None:
        self._meets = {asker: frozenset(some) for asker, some in meets.items()}
        self._rank = {name: index for index, name in enumerate([*meets, *trainers])}
        self._askers: dict[str, _Asker] = {}
        self._trainers = {trainer: _Trainer() for trainer in trainers}
        self._held = Counter[str]()
        self._excluded: set[str] = set()
        self._prefix = prefix
        self._count = 0

    @property
    def loans(self) -> list[Loan]:
        """Those that stand, in the order of the trainers in the plan."""
        return [known.loan for known in self._trainers.values() if known.loan is not None]

    def came(self, trainer: str, now: float) -> None:
        """`trainer` is there, for the first time or again: it is idle, whoever it worked for."""
        self._free(trainer, now)

    def left(self, trainer: str, *, final: bool) -> None:
        """`trainer` is not there any more; if `final`, it will not be back."""
        self._set(trainer, "gone" if final else "away")

    def exclude(self, trainer: str) -> None:
        """`trainer` gets no more models."""
        self._excluded.add(trainer)
        if trainer in self._trainers:
            self._set(trainer, "gone")

    def asks(self, asker: str, room: int, without: Collection[str], now: float) -> None:
        """`asker` wants to have `room` trainers at a time, those that it has included, but none of `without`."""
        known = self._askers.setdefault(asker, _Asker())
        if not self._wants(asker):
            known.since = now
        known.room, known.without, known.starving = room, frozenset(without), False

    def returns(self, asker: str, number: str, now: float) -> None:
        """`asker` is done with the trainer of that loan. One that stands no longer means nothing."""
        for trainer, known in self._trainers.items():
            if known.loan is not None and (known.loan.number, known.loan.asker) == (number, asker):
                self._free(trainer, now)

    def keeps(self, asker: str, trainer: str, number: str) -> None:
        """`asker`, which was away, says that `trainer` works for it still: so it does if it is idle."""
        known = self._trainers.get(trainer)
        if known is not None and known.state == "idle" and trainer in self._meets[asker]:
            self._set(trainer, "lent", Loan(number, trainer, asker))

    def departs(self, asker: str, now: float) -> None:
        """`asker` is not there any more: its trainers are free at once."""
        self._askers.pop(asker, None)
        for trainer, known in self._trainers.items():
            if known.loan is not None and known.loan.asker == asker:
                self._free(trainer, now)

    def grants(self) -> list[Loan]:
        """The loans that are to be made now; they stand."""
        granted: list[Loan] = []
        while (pair := self._next_pair()) is not None:
            self._count += 1
            asker, trainer = pair
            loan = Loan(f"{self._prefix}{self._count}", trainer, asker)
            self._set(trainer, "lent", loan)
            self._askers[asker].starving = False
            granted.append(loan)
        return granted

    def starving(self) -> list[str]:
        """Askers that nobody can be lent to before some other aggregator begins its next round, or ever; each is named once.

        Others may wait for them: they are to go on with what they have.
        """
        found = [asker for asker, known in self._askers.items() if not known.starving and self._wants(asker) and self._lacks(asker)]
        for asker in found:
            self._askers[asker].starving = True
        return sorted(found, key=self._rank.__getitem__)

    def _free(self, trainer: str, now: float) -> None:
        if trainer not in self._excluded:
            self._set(trainer, "idle")
            self._trainers[trainer].since = now

    def _set(self, trainer: str, state: State, loan: Loan | None = None) -> None:
        known = self._trainers[trainer]
        for each, change in ((known.loan, -1), (loan, 1)):
            if each is not None:
                self._held[each.asker] += change
        known.state, known.loan = state, loan

    def _wants(self, asker: str) -> bool:
        return asker in self._askers and self._askers[asker].room > self._held[asker]

    def _fit(self, asker: str) -> list[str]:
        """The trainers that `asker` can use, wherever they are."""
        without = self._askers[asker].without
        return [trainer for trainer in self._trainers if trainer in self._meets[asker] and trainer not in without]

    def _next_pair(self) -> tuple[str, str] | None:
        wanting = [asker for asker in self._askers if self._wants(asker)]
        for asker in sorted(wanting, key=lambda one: (self._held[one], self._askers[one].since, self._rank[one])):
            idle = [trainer for trainer in self._fit(asker) if self._trainers[trainer].state == "idle"]
            if idle:
                return asker, min(idle, key=lambda one: (self._trainers[one].since, self._rank[one]))
        return None

    def _lacks(self, asker: str) -> bool:
        """Whether each trainer that `asker` can use is gone, or works for an aggregator that is between its rounds."""
        for trainer in self._fit(asker):
            known = self._trainers[trainer]
            if known.state in ("idle", "away"):
                return False
            owner = None if known.loan is None else self._askers.get(known.loan.asker)
            if known.loan is not None and (known.loan.asker == asker or owner is None or owner.room > 0):
                return False
        return True
