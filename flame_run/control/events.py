"""What the controller tells the runner: frozen values, in the order in which things happened.

Each event carries `time`, seconds since the epoch. It is the runner's clock, except in `MetricsReported`, where it is
the worker's.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Registered:
    """A worker's session is open."""

    worker: str
    pid: int
    host: str
    time: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """A worker has built what it needs; `address` (`host:port`) where peers reach it, None where nothing listens."""

    worker: str
    address: str | None
    time: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """Every worker of the plan is ready and was told to start."""

    time: float


@dataclass(frozen=True, slots=True, kw_only=True)
class StateChanged:
    """A worker reports `running`, `completed`, `failed` or `terminated`."""

    worker: str
    state: str
    time: float
    round: int | None = None
    error: str | None = None
    secondary: bool = False
    """The worker failed because a peer vanished, so that another worker is the cause."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricsReported:
    """Values that a worker measured, in its order; `round` None before the first."""

    worker: str
    round: int | None
    values: Mapping[str, float]
    time: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgressReported:
    """A worker has finished `epoch` of `epochs` local epochs of its round."""

    worker: str
    epoch: int
    epochs: int
    time: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultReported:
    """A root's result so far; a later one replaces it."""

    worker: str
    result: Mapping[str, Any]
    time: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionLost:
    """A session ended without a goodbye."""

    worker: str
    reason: str
    time: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionClosed:
    """A session said goodbye; everything it reported stands before this."""

    worker: str
    time: float


ControlEvent = (
    Registered | Ready | Started | StateChanged | MetricsReported | ProgressReported | ResultReported | SessionLost | SessionClosed
)
