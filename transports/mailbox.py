"""Where the threads of a transport leave what happened and a worker waits for it."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TypeVar

from transports.base import Gate
from transports.errors import Aborted, WaitTimeout

T = TypeVar("T")
_SHOWN = 10


def listed(names: object, *, shown: int = _SHOWN) -> str:
    """Names joined by commas, the first `shown` of them and then how many more."""
    every = [str(name) for name in names] if isinstance(names, list | tuple | set | frozenset | dict) else [str(names)]
    more = f" and {len(every) - shown} more" if len(every) > shown else ""
    return ", ".join(every[:shown]) + more


class OpenGate:
    """The gate of a worker that has its process for itself: lets everybody run."""

    def released(self) -> AbstractContextManager[None]:
        """A context that changes nothing."""
        return nullcontext()


class Mailbox:
    """One lock for the state of an endpoint, and waits on that state that end.

    Args:
        gate: surrounds each wait that blocks.
    """

    def __init__(self, gate: Gate | None = None) -> None:
        self._condition = threading.Condition()
        self.gate: Gate = gate or OpenGate()
        self._aborted: str | None = None
        self._stamps = 0

    @contextmanager
    def changing(self) -> Iterator[None]:
        """Hold the lock, then wake whoever waits. Never take the lock of another mailbox inside."""
        with self._condition:
            yield
            self._condition.notify_all()

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Hold the lock."""
        with self._condition:
            yield

    def stamp(self) -> int:
        """A number that grows with every call; the order of events. Call it while `changing()`."""
        self._stamps += 1
        return self._stamps

    @property
    def aborted(self) -> str | None:
        """Why waits end, or None."""
        return self._aborted

    def abort(self, reason: str) -> None:
        """End every present and future wait; the first reason stays."""
        with self.changing():
            if self._aborted is None:
                self._aborted = reason

    def wait_until(self, ready: Callable[[], T | None], timeout: float | None, awaited: Callable[[], str]) -> T:
        """What `ready` returns, once that is not None.

        Args:
            ready: looks at the state, and may change it; runs under the lock.
            timeout: seconds; None waits until `abort()`.
            awaited: says what is missing, for the text of the timeout; runs under the lock.

        Raises:
            WaitTimeout: `ready` stayed None.
            Aborted: the endpoint was told to stop.
        """
        with self._condition:
            found = self._look(ready)
            if found is None and timeout is not None and timeout <= 0:
                raise WaitTimeout(awaited())
        if found is not None:
            return found
        # The gate is taken back only after the lock was let go: others hold the gate while they want the lock.
        with self.gate.released():
            return self._wait(ready, timeout, awaited)

    def _look(self, ready: Callable[[], T | None]) -> T | None:
        if self._aborted is not None:
            raise Aborted(self._aborted)
        return ready()

    def _wait(self, ready: Callable[[], T | None], timeout: float | None, awaited: Callable[[], str]) -> T:
        deadline = None if timeout is None else time.monotonic() + timeout
        with self._condition:
            while (found := self._look(ready)) is None:
                left = None if deadline is None else deadline - time.monotonic()
                if left is not None and left <= 0:
                    raise WaitTimeout(f"after {timeout:g} s: {awaited()}")
                self._condition.wait(left)
            return found
