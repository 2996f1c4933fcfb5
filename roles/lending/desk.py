"""The coordinator of an asynchronous job at work: lends trainers to the aggregators that ask, and hears who is there."""

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from roles.lending.book import Lending, Loan
from roles.lending.words import Request, grant, nobody
from roles.presence import Presence
from transports.base import Event, Joined, Left
from transports.message import Header, Scalar


@dataclass(frozen=True, slots=True)
class Told:
    """What an aggregator is to be told: its new trainers."""

    asker: str
    trainers: tuple[str, ...]
    more: Mapping[str, Scalar]


class Desk:
    """Keeps the loans; a trainer that is away longer than it is waited for is gone.

    Args:
        meets: aggregator -> the trainers that share a group with it, in the order of the plan.
        trainers: all of them, in the order of the plan.
        presence: of the trainers; kept by the caller.
        rejoin_timeout: seconds for which a trainer that is away is waited for.
        repeat: whether several updates of one trainer may count in one step of the root.
    """

    def __init__(
        self,
        meets: Mapping[str, Sequence[str]],
        trainers: Sequence[str],
        presence: Presence,
        rejoin_timeout: float,
        *,
        repeat: bool = False,
    ) -> None:
        # Loans of a coordinator that was started anew are not taken for those of its predecessor.
        self._lending = Lending(meets, trainers, prefix=f"{secrets.token_hex(4)}-", repeat=repeat)
        self._trainers = frozenset(trainers)
        self._presence = presence
        self._round = 0
        self._timeout = rejoin_timeout
        self._numbers: dict[str, int] = {}
        self._known: set[str] = set()
        """The trainers that have joined at some time."""
        self._late: set[str] = set()
        """Those that have been away for too long."""

    @property
    def round(self) -> int:
        """The newest round of an aggregator that has asked."""
        return self._round

    def note(self, event: Event, now: float) -> None:
        """Somebody has come or left. Of an aggregator that has left the trainers are free."""
        trainer, final = event.end in self._trainers, isinstance(event, Left) and (event.final or event.clean)
        if trainer and isinstance(event, Joined):
            self._late.discard(event.end)
            # Who has not worked yet has waited since the beginning.
            self._lending.came(event.end, now if event.end in self._known else 0.0)
            self._known.add(event.end)
        elif trainer:
            self._lending.left(event.end, final=final)
        elif isinstance(event, Left):
            self._lending.departs(event.end, now)
            self._numbers.pop(event.end, None)

    def exclude(self, end: str) -> None:
        """`end` gets no more models."""
        self._lending.exclude(end)

    def lost(self, askers: Sequence[str], now: float) -> None:
        """The root has lost these, and has no sum of them in its open round."""
        for asker in askers:
            self._lending.gone(asker, now)

    def requested(self, asker: str, header: Header, now: float) -> None:
        """An aggregator asks, or gives back.

        Raises:
            UnexpectedMessage: it says something else.
        """
        request = Request.read(header.scalars)
        self._round = max(self._round, header.round)
        if asker not in self._numbers:
            # It was away, or its former coordinator was.
            for trainer, number in request.held.items():
                self._lending.keeps(asker, trainer, number)
        for number in request.done:
            self._lending.returns(asker, number, now)
        self._lending.asks(asker, request.room, request.without, now, taken=request.taken, holds=request.held)
        self._numbers[asker] = request.number

    def until(self) -> float | None:
        """When the next trainer is away for too long; None: nobody is away."""
        waited = [away.since for trainer, away in self._presence.away.items() if trainer not in self._late]
        return min((since + self._timeout for since in waited), default=None)

    def due(self, now: float) -> list[Told]:
        """What is to be said now."""
        for trainer, away in self._presence.away.items():
            if now >= away.since + self._timeout and trainer not in self._late:
                self._late.add(trainer)
                self._lending.left(trainer, final=True)
        by_asker: dict[str, list[Loan]] = {}
        for loan in self._lending.grants():
            by_asker.setdefault(loan.asker, []).append(loan)
        told = [Told(asker, tuple(loan.trainer for loan in loans), grant(loans)) for asker, loans in by_asker.items()]
        starving = [(asker, self._lending.hopeless(asker)) for asker in self._lending.starving()]
        return told + [Told(asker, (), nobody(self._numbers[asker], final=final)) for asker, final in starving]
