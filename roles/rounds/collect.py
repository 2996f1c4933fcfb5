"""One round of collecting updates, as a pure state machine: what happened goes in, what to do next comes out.

No clock, no I/O: times are passed in. Updates are folded in the order of the plan, whatever the order of
arrival, so that the result is the same to the bit; one that arrives early stays with its sender.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from roles.presence import Away

Why = Literal["lost", "excluded", "refused", "late", "short", "starved"]
"""What kept an end from delivering: it is not there, it gets no more models, what it sent was bad, it took too long, it lacks
ends of its own, these work for others at the moment."""


@dataclass(frozen=True, slots=True)
class Fold:
    """Take the update of `end` now."""

    end: str


@dataclass(frozen=True, slots=True)
class Wait:
    """Wait for the next event, at most until `until` (same clock as the caller's `now`; None: for ever)."""

    until: float | None
    ends: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Close:
    """The round is complete. `missing`: the ends without an update, and why."""

    missing: dict[str, str]


@dataclass(frozen=True, slots=True)
class Short:
    """The round cannot reach its quorum. `lost`: all that are missing are not there; `starved`: they work for others."""

    reason: str
    lost: bool
    starved: bool = False


Step = Fold | Wait | Close | Short


class Collect:
    """Follows the ends of one round from "asked" to "folded" or "missing"."""

    def __init__(
        self,
        ends: Sequence[str],
        *,
        needed: int | None,
        deadline: float | None = None,
        rejoin_timeout: float = 60.0,
        limit: float | None = None,
        begun: float = 0.0,
        eager: bool = False,
        virtual: bool = False,
        tolerant: bool = False,
    ) -> None:
        """What is known of `ends`, in the order of the plan, at the start: they are there and will deliver.

        Args:
            ends: those that take part.
            needed: how many updates close the round; None: of all that are not lost, at least one.
            tolerant: whether all that are not lost will do where they are fewer than `needed`.
            deadline: seconds from the moment the quorum is there; None: as long as it takes.
            rejoin_timeout: seconds for which an end that is away keeps its place.
            limit: seconds from `begun` after which the round closes, if the quorum is there by then, else with the quorum;
                None: as long as it takes.
            begun: when the round began.
            eager: fold updates in the order of their arrival.
            virtual: whether arrivals, `deadline`, `limit` and `begun` are of a virtual clock: nothing is decided before everybody
                has offered or is lost, then as if it had happened in the order of those times.
        """
        self.patience: float | None = None if virtual else limit if deadline is None else deadline
        """Seconds for which an update may be on its way, once the round is to close; None: as long as it takes."""
        self.rejoin_timeout = rejoin_timeout
        self.folded: list[str] = []
        self.missing: dict[str, str] = {}
        self._why: dict[str, Why] = {}
        self._needed = needed
        self._tolerant = tolerant
        self._order = {end: index for index, end in enumerate(ends)}
        self._pending = list(ends)
        self._offered: set[str] = set()
        self._away: dict[str, Away] = {}
        self._covered: dict[str, str] = {}
        self._uncovered: list[str] = []
        self._again: set[tuple[str, str]] = set()
        """Who was asked once more after it had been covered, and by whom."""
        self._quorum_at: float | None = None
        self.dropped = False
        """Whether somebody was too late."""
        self._at: dict[str, float] = {}
        self._deadline, self._limit, self._begun = deadline, limit, begun
        self._eager = eager
        self._virtual = virtual

    @property
    def needed(self) -> int:
        """How many updates close the round."""
        if self._needed is not None and not self._tolerant:
            return self._needed
        excused = sum(why in ("lost", "excluded") for why in self._why.values())
        able = len(self.folded) + len(self._pending) + len(self._covered) + len(self.missing) - excused
        return max(1, able if self._needed is None else min(self._needed, able))

    def expects(self, end: str) -> bool:
        """Whether an update of `end` may still count in this round."""
        return end in self._pending and end not in self._offered

    def spares(self, end: str) -> bool:
        """Whether the quorum is there without `end`."""
        return self._ready(self._offered - {end}) >= self.needed

    def offered(self, end: str, now: float) -> None:
        """`end` has an update ready that passed the checks so far."""
        self._offered.add(end)
        self._at[end] = now
        self._away.pop(end, None)
        if not self._virtual and self._quorum_at is None and self._has_quorum():
            self._quorum_at = now

    def away(self, end: str, reason: str, since: float) -> None:
        """`end` is not connected since then, and what it offered is lost with the connection. It may come back."""
        if end in self._pending and end not in self._away:
            self._away[end] = Away(reason, since)
            self._withdraw(end)

    def back(self, end: str) -> bool:
        """`end` is connected again; whether this round still wants an update of it."""
        self._away.pop(end, None)
        return self.expects(end)

    def lost(self, end: str, reason: str, why: Why = "lost") -> None:
        """`end` will not deliver in this round."""
        if end in self._pending:
            self._pending.remove(end)
            self._away.pop(end, None)
            self.missing[end] = reason
            self._why[end] = why
            self._withdraw(end)
            self._uncover(end, reason, why)

    def covered(self, end: str, by: str) -> None:
        """The update of `end` is in that of `by`, another end: it counts as soon as that one does."""
        if end not in self._pending:
            return
        if by == end or by not in self._order:
            self.lost(end, f"says that its update is in that of {by}, which is no other end of this round", "refused")
        elif by in self.missing and self._why[by] == "lost" and (end, by) not in self._again:
            # Whether `by` has gone had not come through to it. Where that is all it ever says, nothing will come of asking.
            self._again.add((end, by))
            self._uncovered.append(end)
        elif by in self.missing:
            self.lost(end, f"its update was in that of {by}: {self.missing[by]}", self._why[by])
        else:
            self._pending.remove(end)
            self._away.pop(end, None)
            self._withdraw(end)
            self._covered[end] = by
            if self._quorum_at is None and not self._virtual and self._has_quorum():
                self._quorum_at = max(self._at.values(), default=None)

    def uncovered(self) -> list[str]:
        """The ends that have to deliver by themselves, since this was called last: who was to do it for them is lost."""
        ends, self._uncovered = self._uncovered, []
        return ends

    def _uncover(self, by: str, reason: str, why: Why) -> None:
        for end in [end for end, other in self._covered.items() if other == by]:
            del self._covered[end]
            self._pending = sorted([*self._pending, end], key=self._order.__getitem__)
            if why == "lost":
                self._uncovered.append(end)
            else:
                self.lost(end, f"its update was in that of {by}: {reason}", why)

    def late(self, end: str) -> None:
        """`end` did not deliver before the deadline."""
        by_limit = self._limit is not None and self.closes_at == self._begun + self._limit
        limit = f"{self._limit:g} s of the start of the round" if by_limit else f"{self._deadline or 0:g} s of the quorum"
        self.lost(end, f"no update within {limit}", "late")
        self.dropped = True

    def done(self, end: str) -> None:
        """The update of `end` has been added."""
        self._pending.remove(end)
        self._offered.discard(end)
        self.folded.append(end)

    def begin_anew(self) -> None:
        """The sum was spoilt: what is in it has to be folded once more."""
        self._offered.update(self.folded)
        self._pending = sorted([*self.folded, *self._pending], key=self._order.__getitem__)
        self.folded.clear()

    def next(self, now: float) -> Step:
        """What to do now."""
        if not self._virtual:
            self._drop_late(now)
        self._drop_away(now)
        if self._virtual:
            self._drop_late_of_all()
        able = len(self.folded) + len(self._pending) + len(self._covered)
        if able < self.needed:
            return self._short(able)
        if not self._pending:
            return Close(dict(self.missing))
        following = self.upcoming(1)
        if following and not (self._virtual and self._unheard()):
            return Fold(following[0])
        return Wait(self._until(), tuple(end for end in self._pending if end not in self._offered))

    def upcoming(self, count: int) -> list[str]:
        """The next `count` ends in order as far as they are ready without a gap: worth starting their transfer."""
        if self._eager:
            return sorted(self._offered, key=self._arrival)[:count]
        ready: list[str] = []
        for end in self._pending[:count]:
            if end not in self._offered:
                break
            ready.append(end)
        return ready

    def _arrival(self, end: str) -> tuple[float, int]:
        return self._at[end], self._order[end]

    @property
    def closes_at(self) -> float | None:
        """When the deadline of the round is; None while there is none."""
        if self._quorum_at is None:
            return None
        limits = [] if self._deadline is None else [self._quorum_at + self._deadline]
        if self._limit is not None:
            limits.append(max(self._begun + self._limit, self._quorum_at))
        return min(limits, default=None)

    def _has_quorum(self) -> bool:
        return self._ready(self._offered) >= self.needed

    def _ready(self, offered: set[str]) -> int:
        """How many ends have delivered, or will with `offered`."""
        there = offered | set(self.folded)
        return len(there) + sum(by in there for by in self._covered.values())

    def _withdraw(self, end: str) -> None:
        self._offered.discard(end)
        if not self._has_quorum():
            self._quorum_at = None

    def _drop_late(self, now: float) -> None:
        if self.closes_at is not None and now >= self.closes_at:
            for end in [end for end in self._pending if end not in self._offered]:
                self.late(end)

    def _unheard(self) -> bool:
        """Whether somebody may offer yet."""
        return any(end not in self._offered for end in self._pending)

    def _drop_late_of_all(self) -> None:
        """Once everybody has offered: those who did so after the round was to close."""
        order = sorted(self._offered, key=self._arrival)
        if self.folded or self._unheard() or len(order) < self.needed:
            return
        self._quorum_at = self._at[order[self.needed - 1]]
        closes_at = self.closes_at
        for end in order[self.needed :]:
            if closes_at is not None and self._at[end] > closes_at:
                self.late(end)

    def _drop_away(self, now: float) -> None:
        for end, away in list(self._away.items()):
            if now >= away.since + self.rejoin_timeout:
                self.lost(end, f"{away.reason}; not back within {self.rejoin_timeout:g} s")
        # Nobody is left to wait for but those who are away, and the round can do without them. By a virtual clock they may be
        # the first.
        if not self._virtual and self._has_quorum() and all(end in self._offered or end in self._away for end in self._pending):
            for end, away in list(self._away.items()):
                self.lost(end, away.reason)

    def _short(self, able: int) -> Short:
        reasons = "; ".join(f"{end}: {reason}" for end, reason in self.missing.items())
        reason = f"{able} of {able + len(self.missing)} ends can deliver, {self.needed} are needed ({reasons})"
        return Short(reason, lost=all(why == "lost" for why in self._why.values()))

    def _until(self) -> float | None:
        limits = [away.since + self.rejoin_timeout for away in self._away.values()]
        return min([*limits, *([] if self.closes_at is None or self._virtual else [self.closes_at])], default=None)
