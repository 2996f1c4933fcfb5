"""Where the code of a worker stands that has the turn for long: told in its log."""

import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType

from flame_run.launch.baton import Baton
from flame_run.launch.turns import LongTurns


class TurnLog:
    """Looks at the turns of a process, about once in `long` seconds, in one thread; none where turns are never long.

    Native code that never lets go of the interpreter stops this thread too: the launcher still warns of it.

    Args:
        gate: lets one worker run at a time; None where there is only one.
    """

    def __init__(self, gate: Baton | None) -> None:
        self._logs: dict[int, tuple[str, Path]] = {}
        """Ident of a worker's thread -> its name and its log."""
        self._closed = threading.Event()
        if gate is not None and gate.long is not None:
            watch = threading.Thread(target=self._watch, args=(gate, gate.long), name="flame-run turns", daemon=True)
            watch.start()

    @contextmanager
    def attended(self, worker: str, log: Path) -> Iterator[None]:
        """Surrounds everything that `worker` does, in its own thread."""
        self._logs[threading.get_ident()] = worker, log
        try:
            yield
        finally:
            del self._logs[threading.get_ident()]

    def close(self) -> None:
        """Look no more. Idempotent."""
        self._closed.set()

    def _watch(self, gate: Baton, long: float) -> None:
        turns = LongTurns(long)
        while not self._closed.wait(max(0.0, turns.due - time.monotonic())):
            turn = gate.current
            for _, seconds in turns.look({0: turn}):
                worker, log = self._logs.get(turn.who or 0, ("", None))
                frame = sys._current_frames().get(turn.who or 0)  # noqa: SLF001 - the documented way to see another thread
                if log is not None and frame is not None:
                    _append(log, worker, seconds, frame)


def _append(log: Path, worker: str, seconds: float, frame: FrameType) -> None:
    moment = datetime.now(tz=UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S")
    stack = "".join(traceback.format_stack(frame))
    with log.open("a", encoding="utf-8", errors="backslashreplace") as file:
        file.write(f"{moment} WARNING {worker} has had the turn for {seconds:.0f} s; its code is here:\n{stack}")
