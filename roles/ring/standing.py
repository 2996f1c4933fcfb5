"""What a member of a ring says of itself, and how the leader counts the members together. No I/O."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from roles.errors import UnexpectedMessage
from roles.rounds.average import WeightedSum
from transports.message import Scalar

Counts = Mapping[str, float]
"""Of one update: `weight`, `samples`, and what the parts of the algorithm add up; of several: `updates` and `count` besides."""


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a member is. What it said last counts."""

    round: int = 0
    """The round whose model it has; 0: the initial one. Of no meaning where models come from an aggregator."""
    digest: str = ""
    """Fingerprint of that model."""
    trained: str | None = None
    """What ties the update that it has to offer to a model; None: it has none."""
    counts: Counts = field(default_factory=dict)
    """Of that update."""
    fault: str = ""
    """Why that update cannot be used; empty where it can."""
    waits: bool = False
    """Whether it waits for the mean of that update, and not only keeps it for others."""
    attempt: int = 0
    """The highest number of an attempt that it has heard of."""

    def scalars(self) -> dict[str, Scalar]:
        """As a message carries it."""
        said: dict[str, Scalar] = {name: getattr(self, name) for name in ("round", "digest", "fault", "waits", "attempt")}
        trained: dict[str, Scalar] = {} if self.trained is None else {"trained": self.trained}
        return {**said, **trained, "counts": json.dumps(dict(self.counts))}


def standing_of(end: str, scalars: Mapping[str, Scalar]) -> Standing:
    """What `end` says of itself.

    Raises:
        UnexpectedMessage: a value is missing, or of another type.
    """
    trained = scalars.get("trained")
    try:
        standing = Standing(
            round=int(scalars["round"]),
            digest=str(scalars["digest"]),
            trained=None if trained is None else str(trained),
            counts=counts_of(scalars["counts"]),
            fault=str(scalars["fault"]),
            waits=bool(scalars["waits"]),
            attempt=int(scalars["attempt"]),
        )
    except (KeyError, ValueError) as error:
        raise UnexpectedMessage(f"{end} says of itself {dict(scalars)!r}, which cannot be understood: {error}") from error
    if standing.trained is not None and not standing.fault and not standing.counts.get("weight", 0.0) > 0:
        raise UnexpectedMessage(f"{end} has an update of weight {standing.counts.get('weight')!r}, where it must be above 0")
    return standing


def counts_of(text: Scalar) -> dict[str, float]:
    """The numbers that a message carries as JSON.

    Raises:
        ValueError: it is something else, or a number is not finite.
    """
    found = json.loads(str(text))
    if not isinstance(found, dict) or not all(_finite(value) for value in found.values()):
        raise ValueError(f"{text!r} is no map of finite numbers")
    return found


def _finite(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def counts_of_update(scalars: Mapping[str, Scalar]) -> dict[str, float]:
    """What counts of an update's scalars: all its numbers."""
    return {name: value for name, value in scalars.items() if isinstance(value, int | float) and not isinstance(value, bool)}


def together(counts: Sequence[Counts]) -> dict[str, float]:
    """The counts of the members of a ring, added up in its order."""
    names = dict.fromkeys(name for each in counts for name in each)
    added = {name: sum(each.get(name, 0) for each in counts) for name in names if name != "updates"}
    return {**added, "updates": sum(int(each.get("updates", 1)) for each in counts), "count": len(counts)}


def count_in(total: WeightedSum, counts: Counts) -> None:
    """Let a sum of tensors say of how much it is the sum."""
    total.total, total.samples = float(counts["weight"]), int(counts["samples"])
    total.updates, total.count = int(counts["updates"]), int(counts["count"])
    for name in total.sums:
        total.sums[name] = float(counts[name])
