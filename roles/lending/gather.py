"""The updates of an asynchronous aggregator whose ends are lent to it, one update at a time."""

from collections.abc import Sequence

from typing_extensions import override

from roles.rounds.collect import Close, Short, Wait
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
        self._starved = ""
        self._stopped = ""

    @property
    def room(self) -> int:
        """How many ends it can have at a time in a round."""
        return self._buffer.concurrency or self._total

    @property
    def useless(self) -> tuple[str, ...]:
        """The ends that could not deliver in this round now, in the order of the plan."""
        return tuple(end for end in self._order if end in self._gone or end in self._away or not self._may_deliver(end))

    def holds(self, end: str) -> bool:
        """Whether `end` is lent and has not delivered yet."""
        return end in self._idle or end in self._training or end in self._offered

    def release(self) -> None:
        """The round is over: nobody is held who was not asked."""
        self._idle.clear()
        self._starved = ""

    @override
    def lend(self, end: str) -> None:
        self._starved = ""
        super().lend(end)

    def starve(self, reason: str) -> None:
        """Nobody will be lent for a while; an empty text takes that back."""
        self._starved = reason

    def stop(self, reason: str) -> None:
        """No round will be closed any more."""
        self._stopped = reason

    @override
    def next(self, now: float) -> Step:
        if self._stopped:
            return Short(self._stopped, lost=True)
        step = super().next(now)
        if self._starved and isinstance(step, Wait) and not self._training:
            # Others may wait for this round: a smaller buffer is better than none.
            return Close(dict(self.missing)) if self.folded else Short(f"no end was lent: {self._starved}", lost=True)
        return step
