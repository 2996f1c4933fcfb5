"""Who sends what to whom: a packed buffer cut into segments by bytes, and the steps of a ring all-reduce. Pure.

Patarasuk and Yuan, "Bandwidth optimal all-reduce algorithms for clusters of workstations", 2009. The buffer is cut into as many
segments as there are members. In the first n - 1 steps (reduce-scatter) each member hands a segment to the next one, which adds
it to its own, so that in the end each member holds the sum of one segment; in the next n - 1 steps (all-gather) the finished
segments go round once more. Each member sends 2 (n - 1) / n of the buffer in all.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from transports.message import ALIGNMENT


@dataclass(frozen=True, slots=True)
class Span:
    """Bytes of a buffer, from `start` up to `stop`."""

    start: int
    stop: int

    @property
    def nbytes(self) -> int:
        """How many they are."""
        return self.stop - self.start


def segments(nbytes: int, members: int) -> list[Span]:
    """Cut a packed buffer of `nbytes` bytes into as many spans as there are members, as equal as may be.

    A span begins at a multiple of `ALIGNMENT` bytes, so that no value is cut in two; in a small buffer some are empty.
    """
    blocks = -(-nbytes // ALIGNMENT)
    bounds = [min(nbytes, index * blocks // members * ALIGNMENT) for index in range(members + 1)]
    return [Span(start, stop) for start, stop in pairwise(bounds)]


def chunks(span: Span, most: int) -> list[Span]:
    """Cut a span into pieces of `most` bytes (a multiple of `ALIGNMENT`), the last one shorter; an empty span has none."""
    return [Span(start, min(span.stop, start + most)) for start in range(span.start, span.stop, most)]


@dataclass(frozen=True, slots=True)
class Step:
    """What one member does in one step."""

    send: int
    """The segment that goes to the next member."""
    receive: int
    """The segment that comes from the member before."""
    add: bool
    """Whether what comes is added to what is there, or replaces it."""


def schedule(members: int, position: int) -> Iterator[Step]:
    """The 2 (n - 1) steps of the member at `position`. What it receives in one step it sends in the next."""
    for step in range(members - 1):
        yield Step((position - step) % members, (position - step - 1) % members, add=True)
    for step in range(members - 1):
        yield Step((position - step + 1) % members, (position - step) % members, add=False)
