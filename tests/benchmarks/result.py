"""What a benchmark finds: one row of the table."""

import statistics
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, TypeVar


@dataclass(frozen=True, kw_only=True)
class Bound:
    """What must hold of a row: ours <= factor * floor + extra."""

    factor: float
    extra: float = 0.0
    text: str


@dataclass(frozen=True, kw_only=True)
class Row:
    """One measure beside one floor; values are medians over the samples, in `unit`."""

    benchmark: str
    variant: str
    unit: str
    ours: list[float]
    floor_name: str
    floor: list[float]
    bound: Bound | None = None
    more: Mapping[str, Any] = field(default_factory=dict)
    """Further findings, for the JSON and the last column."""

    @property
    def ratio(self) -> float:
        """Ours over the floor, of the medians."""
        return statistics.median(self.ours) / statistics.median(self.floor)

    @property
    def holds(self) -> bool | None:
        """Whether the bound holds; None where there is none."""
        if self.bound is None:
            return None
        return statistics.median(self.ours) <= self.bound.factor * statistics.median(self.floor) + self.bound.extra

    def as_json(self) -> dict[str, Any]:
        """All of it, with what follows from it."""
        medians = {"ours_median": statistics.median(self.ours), "floor_median": statistics.median(self.floor)}
        return {**asdict(self), **medians, "ratio": self.ratio, "holds": self.holds}


@dataclass(frozen=True, kw_only=True)
class Options:
    """How thoroughly to measure."""

    repeat: int = 5
    rounds: int = 10
    quick: bool = False
    transports: tuple[str, ...] = ("shm", "grpc", "auto")
    say: Callable[[str], None] = print
    """Told what is being measured."""


T = TypeVar("T")


def alternating(options: Options, title: str, samplers: Mapping[str, Callable[[], T]]) -> dict[str, list[T]]:
    """Call the samplers in turn, `repeat` times: what disturbs the machine for a while disturbs all of them."""
    found: dict[str, list[T]] = {name: [] for name in samplers}
    for turn in range(options.repeat):
        for name, sample in samplers.items():
            options.say(f"{title} {turn + 1}/{options.repeat}: {name}")
            found[name].append(sample())
    return found
