"""Who is there: the ends of a channel as present, away or gone. Pure: times are passed in."""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Away:
    """An end that is not connected and may come back: why, and since when (same clock as the caller's `now`)."""

    reason: str
    since: float


@dataclass(frozen=True, slots=True)
class Stranded:
    """Nobody is left to wait for: `end` is the last one, and `reason` says what became of it."""

    end: str
    reason: str


class Presence:
    """Follows the ends of one channel. Until an end has joined it is away."""

    def __init__(self, ends: Iterable[str], now: float) -> None:
        self.away: dict[str, Away] = {end: Away("has not joined", now) for end in ends}
        self.gone: dict[str, str] = {}
        self.present: set[str] = set()

    def joined(self, end: str) -> None:
        """`end` is connected, for the first time or again."""
        self.away.pop(end, None)
        self.gone.pop(end, None)
        self.present.add(end)

    def left(self, end: str, reason: str, *, final: bool, now: float) -> None:
        """`end` is not connected any more; if `final`, it will not be back."""
        self.present.discard(end)
        if final:
            self.away.pop(end, None)
            self.gone[end] = reason or "left"
        elif end not in self.gone:
            self.away.setdefault(end, Away(reason or "its connection broke", now))

    def patience(self, now: float, timeout: float) -> float | Stranded | None:
        """How long somebody who needs any of these ends waits: for ever (None), until a time, or no longer.

        Somebody who is there is waited for as long as it takes, those who are away `timeout` seconds from when they left.
        """
        if self.present:
            return None
        if not self.away:
            end, reason = next(reversed(self.gone.items()))
            return Stranded(end, reason)
        end, last = max(self.away.items(), key=lambda item: item[1].since)
        until = last.since + timeout
        return until if now < until else Stranded(end, f"{last.reason}; not back within {timeout:g} s")
