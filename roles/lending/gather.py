"""The updates of the aggregators of an asynchronous job with a coordinator: of those that borrow, and of the root above them."""

from collections.abc import Sequence

from typing_extensions import override

from roles.rounds.collect import Close, Short, Wait, Why
from roles.rounds.gather import Gather, Step
from roles.strategy import Buffer


class LentGather(Gather):
    """As `Gather`, of ends that are there from `lend` to their update, and of which others may be lent instead.

    Args:
        ends: all that can be lent, in the order of the plan.
        buffer: how many updates close a round, and how many ends train at a time.
        needed: how many ends the job needs; None: at least one.
        rejoin_timeout: seconds for which an end that is away is waited for.
    """

    def __init__(self, ends: Sequence[str], buffer: Buffer, *, needed: int | None, rejoin_timeout: float = 60.0) -> None:
        super().__init__(ends, buffer, needed=needed, rejoin_timeout=rejoin_timeout, lent=True)
        self._nobody = ""
        self._final = False
        self._stopped = ""

    @property
    def room(self) -> int:
        """How many ends it can have at a time in a round."""
        return self._buffer.concurrency or self._total

    @property
    def useless(self) -> tuple[str, ...]:
        """The ends that could not deliver in this round now, in the order of the plan."""
        return tuple(end for end in self._order if end in self._gone or end in self._away or not self._may_deliver(end))

    @property
    def taken(self) -> tuple[str, ...]:
        """The ends whose updates are in the sum, until the next round begins; nobody where one may count several times."""
        return () if self._buffer.repeat else tuple(self.folded)

    def holds(self, end: str) -> bool:
        """Whether `end` is lent and has not delivered yet."""
        return end in self._idle or end in self._training or end in self._offered

    def release(self) -> None:
        """The round is over: nobody is held who was not asked."""
        self._idle.clear()
        self._nobody = ""

    @override
    def lend(self, end: str) -> None:
        self._nobody = ""
        if self._may_deliver(end):
            super().lend(end)

    def starve(self, reason: str, *, final: bool = False) -> None:
        """Nobody will be lent for a while, or, if `final`, at all; an empty text takes that back."""
        self._nobody, self._final = reason, final

    def stop(self, reason: str) -> None:
        """No round will be closed any more."""
        self._stopped = reason

    @override
    def next(self, now: float) -> Step:
        if self._stopped:
            return Short(self._stopped, lost=True)
        step = super().next(now)
        if self._nobody and isinstance(step, Wait) and not self._training:
            # Others may wait for this round: a smaller buffer is better than none.
            return Close(dict(self.missing)) if self.folded else self._without_ends()
        return step

    def _without_ends(self) -> Short:
        return Short(f"no end was lent: {self._nobody}", lost=True, starved=not self._final)


class LendersGather(Gather):
    """As `Gather`, of the aggregators that ends are lent to.

    Those that starved are asked again where no sum came of the others; where one is lost, as soon as the coordinator knows: it
    lends them the ends of that one.

    Args:
        ends: the aggregators, in the order of the plan.
        buffer: how many sums close a round.
        needed: how many aggregators the job needs; None: at least one.
        rejoin_timeout: seconds for which one that is away is waited for.
    """

    def __init__(self, ends: Sequence[str], buffer: Buffer, *, needed: int | None, rejoin_timeout: float = 60.0) -> None:
        super().__init__(ends, buffer, needed=needed, rejoin_timeout=rejoin_timeout)
        self._known: tuple[str, ...] = ()
        """Those that were `lost_without_sum` when the coordinator was told last."""
        self._doubtful: set[str] = set()
        """Who was asked before that, and has not answered: it may starve because the coordinator did not know."""

    @property
    def lost_without_sum(self) -> tuple[str, ...]:
        """Those that are lost and have no sum in this round, in the order of the plan."""
        return tuple(end for end in self._order if self._gone.get(end) == "lost" and end not in self.folded)

    def relieve(self, known: tuple[str, ...]) -> None:
        """The coordinator knows that these are lost: whoever starved is asked again."""
        self._known = known
        self._doubtful = set(self._training)
        for end in list(self._starved):
            self._feed(end)

    @override
    def asked(self, end: str) -> None:
        self._doubtful.discard(end)
        super().asked(end)

    @override
    def lost(self, end: str, reason: str, why: Why = "lost") -> None:
        super().lost(end, reason, why)
        if end in self._starved and end in self._doubtful:
            self._feed(end)

    def _feed(self, end: str) -> None:
        self._starved.discard(end)
        self.missing.pop(end, None)

    @override
    def next(self, now: float) -> Step:
        step = super().next(now)
        if not (isinstance(step, Short) and self._starved):
            return step
        starved = sorted(self._starved, key=self._order.__getitem__)
        if self._known != self.lost_without_sum:
            return Wait(None, tuple(starved))
        # Each has starved because another one had begun, or not, when it asked: somebody gets what there is now.
        for end in starved:
            self._feed(end)
        return super().next(now)
