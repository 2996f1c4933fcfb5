"""What the controller tells a session: frozen values. Each says how things are, so that hearing it twice changes nothing."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Start:
    """Every worker is ready; worker name -> `host:port` of those that listen. A later one tells the addresses that have changed."""

    addresses: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Gone:
    """`worker` will not come back, because of `reason`."""

    worker: str
    reason: str


@dataclass(frozen=True, slots=True)
class Abort:
    """Stop now, because of `reason`."""

    reason: str


@dataclass(frozen=True, slots=True)
class Received:
    """The reports up to `number` have been taken; for sessions with a network between."""

    number: int


Order = Start | Gone | Abort | Received
Deliver = Callable[[Order], None]
"""Hands an order to a session; returns at once and may be called from any thread."""
