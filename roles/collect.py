"""One round of collecting updates, as a pure state machine: what happened goes in, what to do next comes out.

No clock, no I/O: times are passed in. Updates are folded in the order of the plan, whatever the order of
arrival, so that the result is the same to the bit; one that arrives early stays with its sender.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction


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
    """The round cannot reach its quorum."""

    reason: str


Step = Fold | Wait | Close | Short


def quorum(min_ends: float | None, ends: int) -> int:
    """How many of `ends` a round needs: all (None), a number (1 or more), or a fraction in (0, 1), rounded up; at least one."""
    if min_ends is None:
        return ends
    # By the decimal that was written: 0.07 of 100 ends are 7, though the floats' product is just above.
    needed = math.ceil(Fraction(str(min_ends)) * ends) if min_ends < 1 else int(min_ends)
    return max(1, needed)


class Collect:
    """Follows the ends of one round from "asked" to "folded" or "missing"."""

    def __init__(self, ends: Sequence[str], *, needed: int, deadline: float | None = None) -> None:
        """`ends` in the order of the plan; `deadline` in seconds from the moment the quorum is there."""
        self.needed = needed
        self.deadline = deadline
        self.folded: list[str] = []
        self.missing: dict[str, str] = {}
        self._pending = list(ends)
        self._offered: set[str] = set()
        self._quorum_at: float | None = None

    def expects(self, end: str) -> bool:
        """Whether an update of `end` may still count in this round."""
        return end in self._pending and end not in self._offered

    def offered(self, end: str, now: float) -> None:
        """`end` has an update ready that passed the checks so far."""
        self._offered.add(end)
        if self._quorum_at is None and len(self.folded) + len(self._offered) >= self.needed:
            self._quorum_at = now

    def lost(self, end: str, reason: str) -> None:
        """`end` will not deliver in this round: it left, or its update was refused."""
        if end in self._pending:
            self._pending.remove(end)
            self._offered.discard(end)
            self.missing[end] = reason
            if len(self.folded) + len(self._offered) < self.needed:
                self._quorum_at = None

    def done(self, end: str) -> None:
        """The update of `end` has been added."""
        self._pending.remove(end)
        self._offered.discard(end)
        self.folded.append(end)

    def next(self, now: float) -> Step:
        """What to do now."""
        if len(self.folded) + len(self._pending) < self.needed:
            reasons = "; ".join(f"{end}: {reason}" for end, reason in self.missing.items())
            total = len(self.folded) + len(self._pending) + len(self.missing)
            return Short(
                f"{len(self.folded) + len(self._pending)} of {total} ends can deliver, {self.needed} are needed ({reasons})"
            )
        until = self._until()
        if until is not None and now >= until:
            for end in [end for end in self._pending if end not in self._offered]:
                self.lost(end, f"no update within {self.deadline:g} s of the quorum")
        if not self._pending:
            return Close(dict(self.missing))
        if self._pending[0] in self._offered:
            return Fold(self._pending[0])
        return Wait(until, tuple(end for end in self._pending if end not in self._offered))

    def upcoming(self, count: int) -> list[str]:
        """The next `count` ends in order as far as they are ready without a gap: worth starting their transfer."""
        ready: list[str] = []
        for end in self._pending[:count]:
            if end not in self._offered:
                break
            ready.append(end)
        return ready

    def _until(self) -> float | None:
        if self.deadline is None or self._quorum_at is None:
            return None
        return self._quorum_at + self.deadline
