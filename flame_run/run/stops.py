"""Workers of one process that were told to stop: what becomes of those that do not."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from flame_run.launch.baton import Baton
from flame_run.run.workplace import GRACE


class Stops:
    """Has the process ended by force where nobody in it can go on: a thread cannot be ended.

    That is so when all who are still here were told to stop and none of them leaves within `grace`, or when one of those who
    were told keeps the baton for longer than the patience given with `tell`, so that the others wait for ever.

    Args:
        gate: lets one worker run at a time; None where there is only one.
        end: ends the process; told why.
        grace: seconds.
    """

    def __init__(self, gate: Baton | None, end: Callable[[str], None], *, grace: float = GRACE) -> None:
        self._gate = gate
        self._end = end
        self._grace = grace
        self._changed = threading.Condition()
        self._here: dict[str, int] = {}
        """Worker -> ident of its thread."""
        self._told: dict[str, float] = {}
        """Worker -> when it was told, `time.monotonic()` seconds."""
        self._left = 0.0
        """When somebody left last."""
        self._watching = False
        self._patience = grace
        self._turn, self._since = 0, 0.0
        """A turn of somebody who was told, and from when on it was seen."""

    @contextmanager
    def attended(self, worker: str) -> Iterator[None]:
        """Surrounds everything that `worker` does, in its own thread."""
        with self._changed:
            self._here[worker] = threading.get_ident()
        try:
            yield
        finally:
            with self._changed:
                del self._here[worker]
                self._left = time.monotonic()
                self._changed.notify_all()

    def tell(self, worker: str, patience: float) -> None:
        """Note that `worker` was told to stop; `patience`: seconds that it may keep the others from running."""
        with self._changed:
            self._told[worker] = time.monotonic()
            self._patience = patience
            self._changed.notify_all()
            if not self._watching:
                self._watching = True
                threading.Thread(target=self._watch, name="flame-run stops", daemon=True).start()

    def _watch(self) -> None:
        with self._changed:
            while lingering := [worker for worker in self._here if worker in self._told]:
                now = time.monotonic()
                due = self._due(lingering, now)
                if now >= due:
                    break
                self._changed.wait(due - now)
            else:
                self._watching = False
                return
        self._end(f"{', '.join(lingering)} did not stop")

    def _due(self, lingering: list[str], now: float) -> float:
        """When the process ends if nothing changes until then; when to look again, if it does not."""
        if len(lingering) == len(self._here) or self._gate is None:
            return max(self._left, *(self._told[worker] for worker in lingering)) + self._grace
        turn, holder = self._gate.turn
        if holder not in [self._here[worker] for worker in lingering]:
            return now + self._grace
        if turn != self._turn:
            self._turn, self._since = turn, now
        return self._since + self._patience
