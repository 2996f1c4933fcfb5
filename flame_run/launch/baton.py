"""One worker at a time: a baton that threads of one process hand on at their channel waits."""

import random
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

from flame_run.launch.errors import WorkerDied


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


RANDOM: tuple[ThreadState, ...] = (PythonRandom(), NumpyRandom(), TorchRandom())
"""The generators that users draw from without naming one."""


class Baton:
    """Lets one of several threads run: the holder. A `transports.base.Gate`.

    Threads get it in the order in which they ask. Each holder finds the `states` as it left them itself; at its first turn, as
    they were when the baton was made.
    """

    def __init__(self, states: Sequence[ThreadState] = RANDOM) -> None:
        self._states = tuple(states)
        self._first = [state.save() for state in self._states]
        self._lock = threading.Lock()
        self._line: deque[tuple[int, threading.Lock]] = deque()
        """Ident of each thread in line and what it waits for: only the one whose turn it is wakes. The first holds the baton."""
        self._broken = ""

    @contextmanager
    def held(self, on_line: Callable[[], None] = lambda: None) -> Iterator[None]:
        """Take part: wait for a turn, run, hand the baton on for good.

        Args:
            on_line: called as soon as this thread stands in line.

        Raises:
            WorkerDied: the baton was broken.

        """
        turn = self._join_line()
        on_line()
        try:
            self._acquire(turn, self._first)
            yield
        finally:
            self._leave()

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
        turn = threading.Lock()
        with self._lock:
            if self._line:
                turn.acquire()
            self._line.append((threading.get_ident(), turn))
        return turn

    def _acquire(self, turn: threading.Lock, states: Sequence[Any]) -> None:
        # A breakpoint in another worker may take any time, so this wait has no end of its own.
        turn.acquire()
        with self._lock:
            broken = self._broken
        for state, value in zip(self._states, states, strict=True):
            state.restore(value)
        if broken:
            raise WorkerDied(broken)

    def _leave(self) -> None:
        with self._lock:
            if not self._line or self._line[0][0] != threading.get_ident():
                raise RuntimeError(f"thread {threading.current_thread().name!r} does not hold the baton")
            self._line.popleft()
            if self._line:
                self._line[0][1].release()
