"""One round of a ring at its leader, as a pure state machine: who takes part, in which attempt, and when the sum is there.

No clock, no I/O: times are passed in. Members are called to train, offer what they have trained, and are put into an attempt
together. An attempt in which a member is lost, or cannot reach another one, is given up for a new one with those who are left:
everybody still has its own update, because no sum counts before all who are in it have it.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from roles.presence import Presence
from roles.ring.standing import Standing
from roles.rounds.collect import Close, Collect, Fold, Short, Wait

How = Literal["left", "unreachable", "corrupt"]
"""Why an attempt broke at a member: the other one left, could not be reached from there, or sent bytes that are damaged."""
CORRUPT: Final = 3
"""How often a round is tried again because of damaged bytes."""


@dataclass(frozen=True, slots=True)
class Broken:
    """What a member says of an attempt that came to nothing."""

    number: int
    end: str
    how: How
    reason: str


@dataclass(frozen=True, slots=True)
class Call:
    """Let these members train the round, if they do not yet."""

    ends: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Attempt:
    """Reduce, in this order."""

    number: int
    order: tuple[str, ...]
    """The leader is always one of them: it needs the sum."""
    counted: tuple[str, ...]
    """Those of them whose updates are in the sum."""


@dataclass(frozen=True, slots=True)
class Complete:
    """Every member of the attempt that is left has the sum. `missing`: who is not in it, and why."""

    number: int
    order: tuple[str, ...]
    missing: Mapping[str, str]


Step = Call | Attempt | Complete | Wait | Short


class Lead:
    """Follows the members from the call to the sum.

    Args:
        me: the leader.
        collect: of all members, the leader too, as the policy has it.
        trained: what ties the updates of this round to their model.
        calls: whether members train when they are called; otherwise they train by themselves.
        number: of the last attempt.
    """

    def __init__(self, me: str, collect: Collect, trained: str, *, calls: bool, number: int) -> None:
        self.attempt = 0
        """The number of the attempt that goes on; 0: none does."""
        self._number = number
        self._me = me
        self._collect = collect
        self._trained = trained
        self._calls = calls
        self._order: tuple[str, ...] = ()
        """Of the attempt that goes on."""
        self._finished: set[str] = set()
        self._lost: dict[str, tuple[str, bool]] = {}
        """Who left since the attempt began: why, and whether for good."""
        self._known: dict[str, Standing] = {}
        self._called: set[str] = set()
        self._corrupt = 0

    def stands(self, end: str, standing: Standing, now: float) -> None:
        """`end` says where it is."""
        self._known[end] = standing
        self._number = max(self._number, standing.attempt)
        offers = standing.trained == self._trained
        if end in self._order:
            self._lost.pop(end, None)
            if not offers and end not in self._finished:
                self._give_up(now)
            return
        self._collect.back(end)
        if not offers:
            self._called.discard(end)
        if offers and standing.fault:
            self._collect.lost(end, standing.fault, "refused")
        elif offers and self._collect.expects(end):
            self._collect.offered(end, now)
        elif not offers and end in self._collect.folded:
            self._collect.begin_anew()
            self._withdraw(end, now)

    def left(self, end: str, reason: str, *, final: bool, now: float) -> None:
        """`end` is not connected any more."""
        self._known.pop(end, None)
        self._called.discard(end)
        if end in self._order:
            self._lost[end] = (reason, final)
            if end not in self._finished:  # else the others have what it had to give
                self._give_up(now)
            return
        if end in self._collect.folded:
            self._collect.begin_anew()
        self._lose(end, reason, final=final, now=now)

    def finished(self, end: str, number: int) -> None:
        """`end` has the whole sum of an attempt."""
        if number == self.attempt and end in self._order:
            self._finished.add(end)

    def broken(self, end: str, said: Broken, now: float) -> None:
        """An attempt came to nothing at `end`."""
        if said.number != self.attempt or end not in self._order:
            return
        self._give_up(now)
        other = max(end, said.end, key=_rank)
        if said.how == "unreachable":
            self._collect.lost(other, f"{end} and {said.end} do not reach each other: {said.reason}")
        elif said.how == "corrupt":
            self._corrupt += 1
            if self._corrupt > CORRUPT:
                self._collect.lost(other, f"what {said.end} sends does not reach {end} undamaged: {said.reason}", "refused")

    def next(self, now: float) -> Step:
        """What to do now."""
        if self.attempt:
            missing = tuple(end for end in self._order if end not in self._finished and end not in self._lost)
            if missing:
                return Wait(None, missing)
            return Complete(self.attempt, self._order, dict(self._collect.missing))
        called = self._uncalled()
        if called:
            self._called.update(called)
            return Call(called)
        while isinstance(step := self._collect.next(now), Fold):
            self._collect.done(step.end)
        if not isinstance(step, Close):
            return step
        self._number += 1
        self.attempt = self._number
        counted = tuple(sorted(self._collect.folded, key=_rank))
        self._order = tuple(sorted({self._me, *counted}, key=_rank))
        return Attempt(self.attempt, self._order, counted)

    @property
    def missing(self) -> Mapping[str, str]:
        """Who is left out so far, and why."""
        return dict(self._collect.missing)

    def _uncalled(self) -> tuple[str, ...]:
        if not self._calls:
            return ()
        able = (end for end, standing in self._known.items() if end != self._me and standing.trained != self._trained)
        return tuple(end for end in able if end not in self._called and self._collect.expects(end))

    def _give_up(self, now: float) -> None:
        """End the attempt: those who are left may be in another one."""
        order, self.attempt, self._order, self._finished = self._order, 0, (), set()
        self._collect.begin_anew()
        for end in order:
            known = self._known.get(end)
            if end in self._lost:
                reason, final = self._lost.pop(end)
                self._lose(end, reason, final=final, now=now)
            elif known is not None and known.trained != self._trained:
                self._withdraw(end, now)

    def _lose(self, end: str, reason: str, *, final: bool, now: float) -> None:
        if final:
            self._collect.lost(end, reason)
        else:
            self._collect.away(end, reason, now)

    def _withdraw(self, end: str, now: float) -> None:
        """`end` does not have the update any more that it offered."""
        self._collect.away(end, "was started anew", now)
        self._collect.back(end)


def _rank(end: str) -> int:
    return int(end.rpartition("-")[2])


def roll_call(collect: Collect, heard: Collection[str], presence: Presence, now: float) -> Close | Wait | Short:
    """Whether those who lead may begin: `heard` are the members that said where they are.

    Args:
        collect: of all members; used up.
        heard: with the leader.
        presence: of the others.
        now: the time.
    """
    for end, reason in presence.gone.items():
        collect.lost(end, reason)
    for end, away in presence.away.items():
        collect.away(end, away.reason, away.since)
    for end in heard:
        if collect.expects(end):
            collect.offered(end, now)
    while isinstance(step := collect.next(now), Fold):
        collect.done(step.end)
    return step


def members_of(order: Sequence[str], me: str) -> tuple[str, str, int]:
    """Who comes before `me` in a ring, who after, and its position."""
    position = order.index(me)
    return order[position - 1], order[(position + 1) % len(order)], position
