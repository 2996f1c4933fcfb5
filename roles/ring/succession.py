"""Who leads a ring: the first member in the order of the plan that is not gone for good. No I/O, times are passed in.

A member that is away may come back, and is waited for; only whoever the runner has given up, or who said goodbye, is passed over.
So all members agree on the leader as soon as all know who is gone.
"""

from collections.abc import Sequence

from roles.presence import Presence, Stranded


def in_order(names: Sequence[str]) -> tuple[str, ...]:
    """Workers of one role in the order of the plan: by their index, which their names end with."""
    return tuple(sorted(names, key=lambda name: int(name.rpartition("-")[2])))


class Succession:
    """One member's view of the others.

    Args:
        me: the member.
        others: the other workers of the ring.
        now: the time.
    """

    def __init__(self, me: str, others: Sequence[str], now: float) -> None:
        self.me = me
        self.members = in_order([me, *others])
        self.presence = Presence(others, now)

    @property
    def leader(self) -> str:
        """Who leads, as far as is known here."""
        return next(name for name in self.members if name == self.me or name not in self.presence.gone)

    @property
    def leads(self) -> bool:
        """Whether it is this member."""
        return self.leader == self.me

    def joined(self, end: str) -> None:
        """`end` is connected, for the first time or again."""
        self.presence.joined(end)

    def left(self, end: str, reason: str, *, final: bool, now: float) -> bool:
        """`end` is not connected any more; whether another member leads from now on."""
        before = self.leader
        self.presence.left(end, reason, final=final, now=now)
        return self.leader != before

    def patience(self, now: float, timeout: float) -> float | Stranded | None:
        """How long to wait for the leader: as long as it takes (None), until a time, or no longer."""
        away = self.presence.away.get(self.leader)
        if away is None:
            return None
        until = away.since + timeout
        return until if now < until else Stranded(self.leader, f"{away.reason}; not back within {timeout:g} s")
