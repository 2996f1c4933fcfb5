"""Who of the workers of a process has the turn, where the launcher can read it, also of a process that has ended."""

import mmap
import os
import struct
import time
from collections.abc import Mapping
from math import inf
from typing import NamedTuple

_RECORD = struct.Struct("@qd")
RECORD_BYTES = _RECORD.size
"""The record lies at the beginning of a file."""
OF, NOBODY, LONG = " of ", "nobody", "long turn: "
"""What observers of a launch hear of turns, see `flame_run.launch.crew.Observer`."""
_PLACES = 2**24
"""More workers than a process can have."""
_LONGEST_PAUSE = 86400.0
"""Seconds: what every kind of wait can take."""


class Turn(NamedTuple):
    """A turn of a baton."""

    number: int
    """How many turns have begun."""
    who: int | None
    """Whose it is: in memory that processes share, the place of the job in its process; None: nobody's, it is over."""
    since: float
    """When it began, or was over: `time.monotonic()` seconds, the same clock in all processes of a machine."""


NO_TURN = Turn(0, None, 0.0)


class TurnMark:
    """Writes down who has the turn: 16 bytes of a memory file, one store each, so that no reader finds half of a number.

    Args:
        descriptor: an empty file in memory.
    """

    def __init__(self, descriptor: int) -> None:
        os.ftruncate(descriptor, RECORD_BYTES)
        view = memoryview(mmap.mmap(descriptor, RECORD_BYTES))
        self._who, self._since = view[:8].cast("q"), view[8:].cast("d")

    def __call__(self, turn: Turn) -> None:
        """Write `turn` down."""
        # In this order a reader between the two takes a turn for younger than it is, never for older.
        self._since[0] = turn.since
        self._who[0] = turn.number * _PLACES + (0 if turn.who is None else turn.who + 1)


def read_turn(descriptor: int) -> Turn:
    """What a `TurnMark` has written into a file, in this process or another; `NO_TURN` if there has been none."""
    data = os.pread(descriptor, RECORD_BYTES, 0)
    if len(data) < RECORD_BYTES:
        return NO_TURN
    word, since = _RECORD.unpack(data)
    number, place = divmod(word, _PLACES)
    return Turn(number, place - 1 if place else None, since)


class LongTurns:
    """Finds turns that last for too long: each once, and `bound` doubles when one is found.

    A job whose turns are long by nature is so told of a few; one that hangs is told of at its first bound.

    Args:
        bound: seconds.
    """

    def __init__(self, bound: float) -> None:
        self._bound = bound
        self._told: dict[int, int] = {}
        """Process -> number of the turn that was found last."""
        self.due = -inf
        """When to look again, `time.monotonic()` seconds: seldom sooner than `bound` after the last look."""

    def look(self, turns: Mapping[int, Turn], now: float | None = None) -> list[tuple[int, float]]:
        """Which of `turns`, one for each process, are too long, and how long they have lasted, seconds."""
        now = time.monotonic() if now is None else now
        going_on = {key: turn for key, turn in turns.items() if turn.who is not None and self._told.get(key) != turn.number}
        found = [(key, now - turn.since) for key, turn in going_on.items() if now >= turn.since + self._bound]
        self._told |= {key: turns[key].number for key, _ in found}
        if found:
            self._bound *= 2
        ends = [turn.since + self._bound for key, turn in going_on.items() if self._told.get(key) != turn.number]
        self.due = min(now + min(self._bound, _LONGEST_PAUSE), *ends, inf)
        return found
