"""The job's settings as roles see them; plain values, checked by the runner before anything starts."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class Stop:
    """Early end of a job: on reaching `target`, or after `patience` evaluations without a better value."""

    metric: str = "accuracy"
    mode: Literal["max", "min"] = "max"
    target: float | None = None
    patience: int | None = None

    @property
    def active(self) -> bool:
        """Whether the job can end before its last round."""
        return self.target is not None or self.patience is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """Which entries of the state are exchanged (shell patterns on their names) and how updates are weighted."""

    include: tuple[str, ...] = ("*",)
    exclude: tuple[str, ...] = ()
    weighted_by: Literal["samples", "uniform"] = "samples"


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """What a root writes: a checkpoint `every` n rounds (0: none), the newest `keep` of them, and the best model by `metric`."""

    every: int = 1
    keep: int = 2
    metric: str | None = None
    """None: `accuracy` where it is logged, else `loss`."""
    mode: Literal["max", "min"] | None = None
    """None: `min` for names that end in `loss`, else `max`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Quorum:
    """When a round may close and how long waits last."""

    min_ends: float | int | None = None
    """A number of ends, or a fraction in (0, 1); None: all."""
    deadline: float | None = None
    """Seconds that a round waits on once it has `min_ends`; None: for ever."""
    join_timeout: float = 60.0
    """Seconds until all ends of this worker have joined; also how long the farewell may take."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """All of them. Rounds and epochs count from 1."""

    seed: int = 0
    rounds: int = 1
    epochs: int = 1
    evaluate_every: int = 1
    """Evaluate the global model after each n-th round and at the end; 0: at the end only."""
    optimizer: Literal["reset", "keep"] = "reset"
    """Whether a trainer's optimizer state starts anew each round."""
    coordinate: Literal["random", "round_robin", "balanced"] = "random"
    base_model: str | None = None
    """Path of a state dict to start from; None: the module as built from the seed."""
    hyperparameters: Mapping[str, Any] = field(default_factory=dict)
    stop: Stop = field(default_factory=Stop)
    share: Share = field(default_factory=Share)
    checkpoint: Checkpoint = field(default_factory=Checkpoint)
    quorum: Quorum = field(default_factory=Quorum)
