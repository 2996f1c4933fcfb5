"""Whether something grows from round to round: samples of a process, slopes through them, and what counts as flat."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from statistics import median

MIB = 2**20
WARM_UP = 0.25
"""The part of the rounds that is left out: allocators, caches and pools fill."""
ALLOWED = {"private": (MIB, MIB), "shared": (MIB, MIB), "descriptors": (1.0, 1.0)}
"""What is flat: growth up to so much, plus so much for each 1,000 rounds. Bytes, bytes, open files."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """What a process held in a round."""

    round: int
    private: int
    """Bytes of anonymous memory."""
    shared: int
    """Bytes of shared memory, as far as the process has touched it."""
    descriptors: int
    """Open files, sockets and the like."""


def sample(pid: int, round: int) -> Sample | None:
    """Look at a process; None if it has ended."""
    try:
        fields = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
        descriptors = len(list(Path(f"/proc/{pid}/fd").iterdir()))
        private, shared = (1024 * int(fields[key].split()[0]) for key in ("RssAnon", "RssShmem"))
    except (OSError, KeyError):
        return None
    return Sample(round=round, private=private, shared=shared, descriptors=descriptors)


def warm(samples: Sequence[Sample]) -> list[Sample]:
    """The samples after the warm-up."""
    last = max((each.round for each in samples), default=0)
    return [each for each in samples if each.round >= WARM_UP * last]


def slope(samples: Sequence[Sample], what: str) -> float:
    """Growth of `what` per round: the median of the slopes between any two samples (Theil 1950, Sen 1968), which a few
    outliers do not move. Zero where there are fewer than two."""
    points: list[tuple[int, float]] = [(each.round, getattr(each, what)) for each in samples]
    pairs = combinations(points, 2)
    return median([(b[1] - a[1]) / (b[0] - a[0]) for a, b in pairs if b[0] != a[0]] or [0.0])


def is_flat(samples: Sequence[Sample], what: str) -> bool:
    """Whether `what` does not grow, beyond what is `ALLOWED`."""
    if len(samples) < 2:
        return False
    rounds = samples[-1].round - samples[0].round
    once, per_thousand = ALLOWED[what]
    return slope(samples, what) * rounds <= once + per_thousand * rounds / 1000
