"""Who works for whom in an asynchronous job with a coordinator, as a pure state machine: what happens goes in, loans come out.

No clock, no I/O: times are passed in, and are only compared. A trainer is idle, lent to one aggregator, away or gone.

An update must not be counted with another one of the same client in one step of the root. So a trainer whose update is in the
sum of an aggregator, or may be, is locked for all others until that aggregator begins its next task: the root asks it again
only when the round that took its sum is closed, and what the others fold from then on counts in a later one.
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
    holds: Collection[str] = ()
    """Trainers that work for it, as it says."""
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
        repeat: whether several updates of one trainer may count in one step of the root: then nobody is locked.
    """

    def __init__(
        self, meets: Mapping[str, Collection[str]], trainers: Sequence[str], *, prefix: str = "", repeat: bool = False
    ) -> None:
        self._meets = {asker: frozenset(some) for asker, some in meets.items()}
        self._rank = {name: index for index, name in enumerate([*meets, *trainers])}
        self._askers: dict[str, _Asker] = {}
        self._trainers = {trainer: _Trainer() for trainer in trainers}
        self._held = Counter[str]()
        self._excluded: set[str] = set()
        self._taken: dict[str, frozenset[str]] = {}
        """Asker -> the trainers whose updates are in its sum, or may be; one that has departed is among them."""
        self._broken: dict[str, Loan] = {}
        """Number -> a loan whose trainer has left or come anew, until its asker knows: it may have the update."""
        self._prefix = prefix
        self._repeat = repeat
        self._count = 0

    @property
    def loans(self) -> list[Loan]:
        """Those that stand, in the order of the trainers in the plan."""
        return [known.loan for known in self._trainers.values() if known.loan is not None]

    def came(self, trainer: str, now: float) -> None:
        """`trainer` is there, for the first time or again: it is idle, whoever it worked for."""
        self._break(trainer)
        self._free(trainer, now)

    def left(self, trainer: str, *, final: bool) -> None:
        """`trainer` is not there any more; if `final`, it will not be back."""
        self._break(trainer)
        self._set(trainer, "gone" if final else "away")

    def exclude(self, end: str) -> None:
        """`end`, a trainer or an aggregator, gets no more models. No sum of such an aggregator is waited for."""
        self._excluded.add(end)
        self._taken.pop(end, None)
        if end in self._trainers:
            self._set(end, "gone")

    def asks(
        self,
        asker: str,
        room: int,
        without: Collection[str],
        now: float,
        *,
        taken: Collection[str] = (),
        holds: Collection[str] = (),
    ) -> None:
        """`asker` wants to have `room` trainers at a time, those that it has included, but none of `without`.

        `taken`: those whose updates are in its sum; `holds`: those that work for it. Without room it is between its rounds, and
        no lock ends: one that was started anew does not know what its predecessor handed up.
        """
        known = self._askers.setdefault(asker, _Asker())
        if asker not in self._excluded:
            self._taken[asker] = frozenset(taken) if room else self._taken.get(asker, frozenset()) | frozenset(taken)
        if not self._wants(asker):
            known.since = now
        known.room, known.without, known.holds, known.starving = room, frozenset(without), frozenset(holds), False

    def returns(self, asker: str, number: str, now: float) -> None:
        """`asker` is done with the trainer of that loan. One that stands no longer means nothing."""
        broken = self._broken.get(number)
        if broken is not None and broken.asker == asker:
            del self._broken[number]
        for trainer, known in self._trainers.items():
            if known.loan is not None and (known.loan.number, known.loan.asker) == (number, asker):
                self._free(trainer, now)

    def keeps(self, asker: str, trainer: str, number: str) -> None:
        """`asker`, which was away, says that `trainer` works for it still: so it does if it is idle."""
        known = self._trainers.get(trainer)
        if known is not None and known.state == "idle" and trainer in self._meets[asker]:
            self._set(trainer, "lent", Loan(number, trainer, asker))

    def departs(self, asker: str, now: float) -> None:
        """`asker` is not there any more: its trainers are idle at once.

        Locked are they for others until it begins a task, or is `gone`: it may have handed up a sum, or may still do so.
        """
        self._askers.pop(asker, None)
        broken = [number for number, loan in self._broken.items() if loan.asker == asker]
        theirs = {self._broken.pop(number).trainer for number in broken}
        for trainer, known in self._trainers.items():
            if known.loan is not None and known.loan.asker == asker:
                theirs.add(trainer)
                self._free(trainer, now)
        if asker not in self._excluded:
            self._taken[asker] = self._taken.get(asker, frozenset()) | theirs

    def gone(self, asker: str, now: float) -> None:
        """The root has lost `asker`, and has no sum of it in its open round: nobody is locked for it any more."""
        self.departs(asker, now)
        self._taken.pop(asker, None)

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

    def hopeless(self, asker: str) -> bool:
        """Whether each trainer that a starving `asker` can use is gone, or with one that gets no more models."""
        return all(self._trainers[trainer].state == "gone" or self._stuck(trainer) for trainer in self._fit(asker))

    def _stuck(self, trainer: str) -> bool:
        loan = self._trainers[trainer].loan
        return loan is not None and loan.asker in self._excluded

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
        """The trainers that `asker` can use, wherever they are, locked or not."""
        without = self._askers[asker].without
        return [trainer for trainer in self._trainers if trainer in self._meets[asker] and trainer not in without]

    def _next_pair(self) -> tuple[str, str] | None:
        wanting = [asker for asker in self._askers if self._wants(asker)]
        for asker in sorted(wanting, key=lambda one: (self._held[one], self._askers[one].since, self._rank[one])):
            fit = [trainer for trainer in self._fit(asker) if self._trainers[trainer].state == "idle"]
            idle = [trainer for trainer in fit if self._broken_of(trainer, asker) is None and not self._locked(trainer, asker)]
            if idle:
                return asker, min(idle, key=lambda one: (self._trainers[one].since, self._rank[one]))
        return None

    def _lacks(self, asker: str) -> bool:
        """Whether nobody can be lent to `asker` before another aggregator begins its next round, or ever."""
        return not any(self._may_come(trainer, asker) for trainer in self._fit(asker))

    def _may_come(self, trainer: str, asker: str) -> bool:
        """Whether it is not gone, locked, or at work for an aggregator that is between its rounds."""
        known = self._trainers[trainer]
        if known.state == "gone" or self._locked(trainer, asker):
            return False
        loan = known.loan or self._broken_of(trainer, asker)
        if loan is None or loan.asker == asker:
            return True
        owner = self._askers.get(loan.asker)
        return owner is None or owner.room > 0

    def _locked(self, trainer: str, asker: str) -> bool:
        """Whether the update of `trainer` is in a sum that another aggregator makes or has handed up, or may come to be."""
        sums = (some for other, some in self._taken.items() if other != asker)
        held = (known.holds for other, known in self._askers.items() if other != asker)
        return not self._repeat and any(trainer in some for some in (*sums, *held))

    def _broken_of(self, trainer: str, asker: str) -> Loan | None:
        """A broken loan of `trainer` to another aggregator that may have its update still."""
        broken = [] if self._repeat else self._broken.values()
        return next((loan for loan in broken if loan.trainer == trainer and loan.asker != asker), None)

    def _break(self, trainer: str) -> None:
        loan = self._trainers[trainer].loan
        if loan is not None:
            self._broken[loan.number] = loan
