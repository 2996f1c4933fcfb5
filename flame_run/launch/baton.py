"""One worker at a time: a baton that threads of one process hand on at their channel waits."""

import itertools
import random
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol

from flame_run.launch.errors import WorkerDied
from flame_run.launch.turns import NO_TURN, Turn


class ThreadState(Protocol):
    """Process-wide state that each worker shall find as it left it."""

    def save(self) -> Any:
        """Return the state now."""

    def restore(self, state: Any) -> None:
        """Bring back what `save` returned."""


class PythonRandom:
    """The generator behind the module `random`."""

    def save(self) -> Any:
        """Return its state."""
        return random.getstate()

    def restore(self, state: Any) -> None:
        """Set its state."""
        random.setstate(state)


class NumpyRandom:
    """numpy's legacy global generator, once numpy is imported."""

    def save(self) -> Any:
        """Return its state; None without numpy."""
        return sys.modules["numpy"].random.get_state() if "numpy" in sys.modules else None

    def restore(self, state: Any) -> None:
        """Set its state."""
        if state is not None:
            sys.modules["numpy"].random.set_state(state)


class TorchRandom:
    """torch's default CPU generator, once torch is imported."""

    def save(self) -> Any:
        """Return its state; None without torch."""
        return sys.modules["torch"].get_rng_state() if "torch" in sys.modules else None

    def restore(self, state: Any) -> None:
        """Set its state."""
        if state is not None:
            sys.modules["torch"].set_rng_state(state)


class Waiting(NamedTuple):
    """A thread in line: only the one whose turn it is wakes."""

    rank: int
    ident: int
    turn: threading.Lock


RANDOM: tuple[ThreadState, ...] = (PythonRandom(), NumpyRandom(), TorchRandom())
"""The generators that users draw from without naming one."""


class Baton:
    """Lets one of several threads run: the holder. A `transports.base.Gate`.

    Those who wait when the baton is handed on to the last of a batch are the next batch. Within a batch threads have their turns
    in the order in which they took part first: that is the order of the plan, in which an aggregator folds what they train.
    Nobody waits for longer than two batches. Each holder finds the `states` as it left them itself; at its first turn, as they
    were when the baton was made.

    Args:
        states: what each worker shall find as it left it.
        mark: told of each turn when it begins and when it is over; `who` is which thread of all it was to take part.
        long: seconds after which a turn is a long one; None: none is.
    """

    def __init__(
        self,
        states: Sequence[ThreadState] = RANDOM,
        *,
        mark: Callable[[Turn], None] = lambda _: None,
        long: float | None = None,
    ) -> None:
        self.long = long
        self._mark = mark
        self._states = tuple(states)
        self._first = [state.save() for state in self._states]
        self._lock = threading.Lock()
        self._ranks: dict[int, int] = {}
        """Ident of each thread that takes part -> which one it was to do so."""
        self._count = itertools.count()
        self._holder: int | None = None
        """Its ident."""
        self._batch: deque[Waiting] = deque()
        self._later: list[Waiting] = []
        self._turn = NO_TURN
        """`who` is the ident of a thread."""
        self._broken = ""

    @property
    def turn(self) -> tuple[int, int | None]:
        """How many turns have begun so far, and the ident of the thread that holds the baton; None: nobody does."""
        with self._lock:
            return self._turn.number, self._holder

    @property
    def current(self) -> Turn:
        """The turn that goes on; `who` is the ident of its thread, None between two turns."""
        with self._lock:
            return self._turn

    @contextmanager
    def held(self, on_line: Callable[[], None] = lambda: None) -> Iterator[None]:
        """Take part: wait for a turn, run, hand the baton on for good.

        Args:
            on_line: called as soon as this thread stands in line.

        Raises:
            WorkerDied: the baton was broken.

        """
        with self._lock:
            self._ranks[threading.get_ident()] = next(self._count)
        turn = self._join_line()
        on_line()
        try:
            self._acquire(turn, self._first)
            yield
        finally:
            self._leave()
            del self._ranks[threading.get_ident()]

    @contextmanager
    def released(self) -> Iterator[None]:
        """Hand the baton on for as long as the context lasts, then wait for the next turn.

        Raises:
            RuntimeError: the calling thread does not hold the baton.
            WorkerDied: the baton was broken.

        """
        saved = [state.save() for state in self._states]
        self._leave()
        try:
            yield
        finally:
            self._acquire(self._join_line(), saved)

    def break_off(self, reason: str) -> None:
        """Let every turn from now on begin with `WorkerDied(reason)`. The holder keeps running until it waits.

        Threads still take turns while they end, so that none disturbs what another has restored.
        """
        with self._lock:
            self._broken = reason

    def _join_line(self) -> threading.Lock:
        me, turn = threading.get_ident(), threading.Lock()
        with self._lock:
            if self._holder is None:
                self._holder = me
            else:
                turn.acquire()
                self._later.append(Waiting(self._ranks[me], me, turn))
        return turn

    def _acquire(self, turn: threading.Lock, states: Sequence[Any]) -> None:
        # A breakpoint in another worker may take any time, so this wait has no end of its own.
        turn.acquire()
        with self._lock:
            self._note_turn(self._turn.number + 1, threading.get_ident())
            broken = self._broken
        for state, value in zip(self._states, states, strict=True):
            state.restore(value)
        if broken:
            raise WorkerDied(broken)

    def _leave(self) -> None:
        with self._lock:
            if self._holder != threading.get_ident():
                raise RuntimeError(f"thread {threading.current_thread().name!r} does not hold the baton")
            if not self._batch:
                self._batch.extend(sorted(self._later))
                self._later.clear()
            self._note_turn(self._turn.number, None)
            self._holder = None
            if self._batch:
                waiting = self._batch.popleft()
                self._holder = waiting.ident
                waiting.turn.release()

    def _note_turn(self, number: int, ident: int | None) -> None:
        self._turn = Turn(number, ident, time.monotonic())
        self._mark(self._turn if ident is None else self._turn._replace(who=self._ranks[ident]))
