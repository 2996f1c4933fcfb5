"""The job's settings as roles see them; plain values, checked by the runner before anything starts."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, Literal

from roles.codecs.options import ChannelCodecs
from roles.simulated import Simulated


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
    parameters_only: bool = False
    """Whether buffers stay with each worker."""


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
    rejoin_timeout: float = 60.0
    """Seconds that an end whose connection broke is waited for where it is needed."""
    survivors: bool = False
    """With `min_ends` None: a round needs all ends that are not gone for good, at least one."""
    max_bad_updates: int | None = None
    """An end whose updates were refused this often in a row is excluded for the rest of the job; None: never."""

    @property
    def tolerant(self) -> bool:
        """Whether a round needs whoever is left, instead of a number."""
        return self.survivors and self.min_ends is None

    def needed(self, ends: int, gone: int) -> int:
        """How many of `ends` a round needs, at least one, where `gone` of them will not be back.

        All (None), a number (all, if there are fewer), or a fraction in (0, 1), rounded up.
        """
        if self.tolerant:
            return max(1, ends - gone)
        if self.min_ends is None:
            return max(1, ends)
        # By the decimal that was written: 0.07 of 100 ends are 7, though the floats' product is just above.
        needed = math.ceil(Fraction(str(self.min_ends)) * ends) if self.min_ends < 1 else int(self.min_ends)
        return max(1, min(needed, ends))


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
    shares: Mapping[str, Share] = field(default_factory=dict)
    """Role -> what it exchanges, where that differs from `share`: the entries that are not for it are not sent to it."""
    eager: bool = False
    """Whether updates are added in the order of their arrival: as soon as they come, but not to the same bits."""
    simulated: Simulated | None = None
    """The virtual clock; None: the real one."""
    checkpoint: Checkpoint = field(default_factory=Checkpoint)
    quorum: Quorum = field(default_factory=Quorum)
    codecs: Mapping[str, ChannelCodecs] = field(default_factory=dict)
    """Channel name -> how weights are encoded on it; a channel without an entry sends them as they are."""
    channels: Mapping[str, Quorum] = field(default_factory=dict)
    """Channel name -> its own quorum, where it differs from `quorum`."""

    def quorum_of(self, channel: str) -> Quorum:
        """When a round on `channel` may close and how long its waits last."""
        return self.channels.get(channel, self.quorum)
