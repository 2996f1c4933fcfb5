"""Lending in a job that is played through without messages: no client counts twice in a step, and the steps do not end."""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial

from hypothesis import given, settings
from hypothesis import strategies as st

from roles.lending.book import Lending

MOST = 400
"""Moves within which a job that is left alone takes three more steps."""


@dataclass
class Middle:
    """An aggregator: what it has borrowed, and its sum."""

    open: bool = False
    dead: bool = False
    starving: bool = False
    held: dict[str, str] = field(default_factory=dict)
    """Trainer -> number of the loan."""
    total: list[str] = field(default_factory=list)
    """Whose updates are in its sum; kept until its next task."""
    handed: bool = False
    """Whether the sum is on its way up."""


class Play:
    """A job, move by move. What is said arrives at once, but deaths are noticed late."""

    def __init__(self, trainers: int, middles: int, size: int, k: int) -> None:
        self.middles = {f"m-{index}": Middle() for index in range(middles)}
        self.trainers = tuple(f"t-{index}" for index in range(trainers))
        self.size, self.k, self.now = size, k, 0.0
        self.book = Lending(dict.fromkeys(self.middles, self.trainers), self.trainers)
        for trainer in self.trainers:
            self.book.came(trainer, 0.0)
        self.buffer: dict[str, list[str]] = {}
        """The root's: aggregator -> whose updates are in its sum."""
        self.sitting_out: set[str] = set()
        self.noticed: set[str] = set()
        """The dead whom the root has lost."""
        self.told: set[str] = set()
        """Of those, the ones that the coordinator knows of."""
        self.departed: set[str] = set()
        self.steps = 0

    def moves(self) -> list[Callable[[], None]]:
        """What may happen next in a job that is left alone."""
        return list(self._moves())

    def _moves(self) -> Iterator[Callable[[], None]]:
        for name, middle in self.middles.items():
            if middle.dead:
                if name not in self.departed:
                    yield partial(self._depart, name)
                if name not in self.noticed:
                    yield partial(self._notice, name)
                if name in self.noticed - self.told and name not in self.buffer:
                    yield partial(self._tell, name)
            elif not (middle.open or middle.handed or name in self.buffer or name in self.sitting_out):
                yield partial(self._begin, name)
            if middle.handed:
                yield partial(self._arrive, name)
            if middle.open:
                yield from (partial(self._fold, name, trainer) for trainer in middle.held)

    def mishaps(self) -> list[Callable[[], None]]:
        """What may go wrong."""
        bad: list[Callable[[], None]] = [partial(self._come_anew, one) for one in self.trainers]
        alive = [name for name, middle in self.middles.items() if not middle.dead]
        bad += [partial(self._die, name) for name in alive if len(alive) > 1]
        bad += [partial(self._start_anew, name) for name in alive]
        bad += [partial(self._lose, name, trainer) for name in alive for trainer in self.middles[name].held]
        return bad

    def _say(self, name: str) -> None:
        middle, self.now = self.middles[name], self.now + 1.0
        room, without = (len(self.trainers), middle.total) if middle.open else (0, ())
        middle.starving = False
        self.book.asks(name, room, without, self.now, taken=middle.total, holds=middle.held)
        self._lend()

    def _lend(self) -> None:
        for loan in self.book.grants():
            middle = self.middles[loan.asker]
            if middle.open:
                middle.held[loan.trainer] = loan.number
            else:
                self.book.returns(loan.asker, loan.number, self.now)
        for name in self.book.starving():
            self.middles[name].starving = True
            self._go_on(name)

    def _go_on(self, name: str) -> None:
        middle = self.middles[name]
        full = len(middle.total) == self.size
        if middle.open and (full or (middle.starving and not middle.held)):
            middle.open = False
            middle.handed = bool(middle.total)
            if not middle.total:
                self.sitting_out.add(name)
            self._say(name)
            self._close()

    def _begin(self, name: str) -> None:
        middle = self.middles[name]
        middle.open, middle.total = True, []
        self._say(name)

    def _fold(self, name: str, trainer: str) -> None:
        middle = self.middles[name]
        number = middle.held.pop(trainer)
        if trainer not in middle.total:
            middle.total.append(trainer)
        self.book.returns(name, number, self.now)
        self._say(name)
        self._go_on(name)

    def _arrive(self, name: str) -> None:
        middle = self.middles[name]
        middle.handed = False
        self.buffer[name] = list(middle.total)
        self._close()

    def _close(self) -> None:
        """The root takes a step when its buffer is full, or nobody else can fill it."""
        waits = [name for name in self.middles if name not in {*self.buffer, *self.sitting_out, *self.noticed}]
        if len(self.buffer) >= self.k or (self.buffer and not waits):
            counts = Counter(trainer for total in self.buffer.values() for trainer in total)
            assert max(counts.values()) == 1, self.buffer
            self.buffer.clear()
            self.sitting_out.clear()
            self.steps += 1

    def _come_anew(self, trainer: str) -> None:
        # Whoever has lent it may not notice.
        self.book.left(trainer, final=False)
        self.book.came(trainer, self.now)
        self._lend()

    def _lose(self, name: str, trainer: str) -> None:
        self.book.returns(name, self.middles[name].held.pop(trainer), self.now)
        self._say(name)
        self._go_on(name)

    def _die(self, name: str) -> None:
        middle = self.middles[name]
        middle.dead, middle.open = True, False
        middle.held.clear()

    def _start_anew(self, name: str) -> None:
        middle = self.middles[name]
        self._depart(name)
        self.departed.discard(name)
        middle.open, middle.handed, middle.total = False, False, []
        middle.held.clear()
        self._say(name)

    def _depart(self, name: str) -> None:
        self.departed.add(name)
        self.book.departs(name, self.now)
        self._lend()

    def _notice(self, name: str) -> None:
        self.noticed.add(name)
        self.middles[name].handed = False
        self._close()

    def _tell(self, name: str) -> None:
        self.told.add(name)
        self.book.gone(name, self.now)
        # Whoever starved is asked again.
        self.sitting_out.clear()
        self._lend()


@settings(max_examples=400)
@given(
    trainers=st.integers(1, 4),
    middles=st.integers(1, 3),
    size=st.integers(1, 3),
    k=st.integers(1, 3),
    picks=st.lists(st.tuples(st.integers(0, 9), st.integers(0, 99)), max_size=60),
)
def test_no_client_counts_twice_in_a_step_and_a_job_that_is_left_alone_goes_on(
    trainers: int, middles: int, size: int, k: int, picks: list[tuple[int, int]]
) -> None:
    play = Play(trainers, middles, size, min(k, middles))
    for luck, pick in picks:
        moves = play.mishaps() if luck == 0 else play.moves()
        assert moves, "everybody waits"
        moves[pick % len(moves)]()
    steps = play.steps
    for turn in range(MOST):
        if play.steps >= steps + 3:
            return
        moves = play.moves()
        assert moves, "everybody waits"
        moves[turn % len(moves)]()
    raise AssertionError(f"{play.steps - steps} steps in {MOST} moves")
