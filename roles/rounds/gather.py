"""The updates of an asynchronous aggregator, as a pure state machine: whoever is free trains, whatever comes counts.

No clock, no I/O. It lives as long as the job: who trains when a round closes goes on, and counts in a later one. By the
arrival of updates, or, where the clock is virtual, by their virtual times: then nothing is folded as long as somebody
trains, for it might have come before.

Nguyen et al., "Federated Learning with Buffered Asynchronous Aggregation", AISTATS 2022, algorithm 1.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from roles.presence import Away
from roles.rounds.collect import Close, Fold, Short, Wait, Why
from roles.strategy import Buffer


@dataclass(frozen=True, slots=True)
class Ask:
    """Send the model of now to `end`."""

    end: str


Step = Ask | Fold | Wait | Close | Short


class Gather:
    """Follows the ends of an asynchronous aggregator. Each one is idle, trains, or has offered.

    Args:
        ends: all of them, in the order of the plan.
        buffer: how many updates close a round, and how many ends train at a time.
        needed: how many ends the job needs; None: at least one.
        rejoin_timeout: seconds for which an end that is away is waited for.
        virtual: see the module.
        lent: whether ends are there only from `lend` to their update.
    """

    closes_at: None = None
    patience: None = None

    def __init__(
        self,
        ends: Sequence[str],
        buffer: Buffer,
        *,
        needed: int | None,
        rejoin_timeout: float = 60.0,
        virtual: bool = False,
        lent: bool = False,
    ) -> None:
        self.rejoin_timeout = rejoin_timeout
        self.folded: list[str] = []
        self.missing: dict[str, str] = {}
        """The ends from which no update of this round will come, and why."""
        self._buffer = buffer
        self._order = {end: index for index, end in enumerate(ends)}
        self._idle: list[str] = [] if lent else list(ends)
        """Who may be asked, the one that waits longest first."""
        self._training: list[str] = []
        self._asks = 0
        self._asked: dict[str, int] = {}
        """End -> which of all models handed out was its last: decides between equal times."""
        self._offered: dict[str, float] = {}
        self._away: dict[str, Away] = {}
        self._gone: dict[str, Why] = {}
        self._reasons: dict[str, str] = {}
        self._sitting_out: set[str] = set()
        """Who sits this round out for lack of its own ends."""
        self._starved: set[str] = set()
        """Who does so because they work for others: no loss, so it counts as able."""
        self._total = len(ends)
        self._needed = needed
        self._virtual = virtual
        self._lent = lent

    def begin(self) -> None:
        """A new round: what is in the buffer was used."""
        self.folded.clear()
        self._sitting_out.clear()
        self._starved.clear()
        self.missing = dict(self._reasons)

    def expects(self, end: str) -> bool:
        """Whether `end` trains."""
        return end in self._training

    def turn(self, end: str) -> int:
        """How many updates of `end` the round has."""
        return self.folded.count(end)

    def lend(self, end: str) -> None:
        """`end` is ours until its update has come."""
        if end not in self._gone and not self._holds(end):
            self._idle.append(end)

    def asked(self, end: str) -> None:
        """`end` was sent the model."""
        self._idle.remove(end)
        self._training.append(end)
        self._asks += 1
        self._asked[end] = self._asks

    def offered(self, end: str, now: float) -> None:
        """`end` has an update ready, at `now` of the clock that the job runs by."""
        self._training.remove(end)
        self._offered[end] = now

    def done(self, end: str) -> None:
        """The update of `end` has been added."""
        del self._offered[end]
        self.folded.append(end)
        self._free(end)

    def away(self, end: str, reason: str, since: float) -> None:
        """`end` is not connected since then; what it did is lost. It may come back."""
        if end not in self._gone and end not in self._away:
            self._drop(end)
            self._away[end] = Away(reason, since)

    def back(self, end: str) -> bool:
        """`end` is connected again, even if it was given up. It is asked when its turn comes, so nothing is to be done at once."""
        self._away.pop(end, None)
        if self._gone.get(end) == "lost":
            del self._gone[end], self._reasons[end]
            self.missing.pop(end, None)
        if end in self._training:
            self._training.remove(end)  # what it was sent went with its connection
        if end not in self._gone:
            self._free(end)
        return False

    def lost(self, end: str, reason: str, why: Why = "lost") -> None:
        """`end` is gone, or what it had for this round was bad: then it is asked again in the next."""
        self._drop(end)
        self._away.pop(end, None)
        if self._gone.get(end) == "excluded":
            return
        self.missing[end] = reason
        if why in ("lost", "excluded"):
            self._gone[end] = why
            self._reasons[end] = reason
        elif end not in self._gone:
            self._sitting_out |= {end} if why == "short" else set()
            self._starved |= {end} if why == "starved" else set()
            self._free(end)

    def spares(self, end: str) -> bool:  # noqa: ARG002 - as in a synchronous round
        """Whether the round can do without `end`: an update that has come is never dropped for taking long."""
        return False

    def late(self, end: str) -> None:
        """`end` took too long."""
        self.lost(end, "took too long", "late")

    def upcoming(self, count: int) -> list[str]:
        """The next `count` ends to fold: worth starting their transfer."""
        return sorted(self._offered, key=lambda end: (self._offered[end], self._asked[end]))[:count]

    def begin_anew(self) -> None:
        """The sum was spoilt.

        Raises:
            RuntimeError: updates are added whole here, so that it cannot be.
        """
        raise RuntimeError("an asynchronous round cannot begin anew: its updates were accepted when they were added")

    def next(self, now: float) -> Step:
        """What to do now; `now` is the time by which ends that are away are waited for."""
        for end, away in list(self._away.items()):
            if now >= away.since + self.rejoin_timeout:
                self.lost(end, f"{away.reason}; not back within {self.rejoin_timeout:g} s")
        able = self._total - len(self._gone) - len(self._sitting_out)
        if able < (self._needed or 1):
            return self._short(able)
        if len(self.folded) >= self._buffer.size:
            return Close(dict(self.missing))
        asked = self._next_to_ask()
        if asked is not None:
            return Ask(asked)
        if self._offered and not (self._virtual and (self._training or self._away)):
            return Fold(self.upcoming(1)[0])
        if not (self._training or self._away or self._lent):
            # Everybody who can has delivered: a buffer larger than that is never full.
            return Close(dict(self.missing)) if self.folded else self._short(0)
        return Wait(self._until(), tuple(sorted({*self._training, *self._away}, key=self._order.__getitem__)))

    def _next_to_ask(self) -> str | None:
        if len(self._training) + len(self._offered) >= (self._buffer.concurrency or self._total):
            return None
        return next((end for end in self._idle if self._may_deliver(end)), None)

    def _may_deliver(self, end: str) -> bool:
        return end not in self.missing and (self._buffer.repeat or end not in self.folded)

    def _holds(self, end: str) -> bool:
        return end in self._idle or end in self._training or end in self._offered or end in self._away

    def _free(self, end: str) -> None:
        if not self._lent and not self._holds(end):
            self._idle.append(end)

    def _drop(self, end: str) -> None:
        for some in (self._idle, self._training):
            if end in some:
                some.remove(end)
        self._offered.pop(end, None)

    def _short(self, able: int) -> Short:
        reasons = "; ".join(f"{end}: {reason}" for end, reason in self.missing.items())
        reason = f"{able} of {self._total} ends can deliver, {self._needed or 1} are needed ({reasons})"
        blameless = {*self._sitting_out, *self._starved}
        return Short(reason, lost=all(self._gone.get(end) == "lost" or end in blameless for end in self.missing))

    def _until(self) -> float | None:
        return min((away.since + self.rejoin_timeout for away in self._away.values()), default=None)
