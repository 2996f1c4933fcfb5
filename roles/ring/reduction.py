"""One member's part of a ring all-reduce, without I/O: which pieces go to the next member, and what becomes of those that come."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from roles.ring.cut import Span, chunks, schedule, segments
from roles.rounds.average import WeightedSum, accumulate
from transports.message import placed


@dataclass(frozen=True, slots=True)
class Part:
    """A piece of the buffer under way from one member to the next."""

    step: int
    """From 0."""
    index: int
    """Which piece of the segment of this step."""
    span: Span


class Reduction:
    """Sums the buffers of all members into that of each, the same to the bit at all of them.

    Each segment is summed in the order of the ring, beginning at its own member, once; then it is copied. Floating-point
    entries are added in the accumulator's dtypes, the others take the largest value.

    Args:
        total: with this member's own update added, and nothing else.
        members: how many there are.
        position: of this member in the ring, from 0.
        chunk: most bytes of a piece, a multiple of `ALIGNMENT`.
    """

    def __init__(self, total: WeightedSum, members: int, position: int, chunk: int) -> None:
        self._buffer = total.memory.buffer
        self._entries = _entries(total)
        cut = [chunks(span, chunk) for span in segments(self._buffer.numel(), members)]
        self._steps = list(schedule(members, position))
        self._sent = [cut[step.send] for step in self._steps]
        self._due = {
            (number, index): span for number, step in enumerate(self._steps) for index, span in enumerate(cut[step.receive])
        }
        self._taken: set[tuple[int, int]] = set()

    @property
    def complete(self) -> bool:
        """Whether everything that others send has come."""
        return not self._due

    def first(self) -> list[Part]:
        """The pieces to send before anything has come."""
        return [Part(0, index, span) for index, span in enumerate(self._sent[0])] if self._steps else []

    def view(self, part: Part) -> Tensor:
        """The bytes of a piece as they are now: uint8."""
        return self._buffer[part.span.start : part.span.stop]

    def expects(self, step: int, index: int, nbytes: int) -> bool:
        """Whether such a piece is still to come."""
        span = self._due.get((step, index))
        return span is not None and span.nbytes == nbytes

    def has(self, step: int, index: int) -> bool:
        """Whether such a piece has come."""
        return (step, index) in self._taken

    def take(self, step: int, index: int, data: Tensor) -> Part | None:
        """Take in a piece that is expected (uint8, its memory is only read); returns the one to send on, if there is one."""
        span = self._due.pop((step, index))
        self._taken.add((step, index))
        if self._steps[step].add:
            self._add(span, data)
        else:
            self._buffer[span.start : span.stop].copy_(data)
        return Part(step + 1, index, span) if step + 1 < len(self._steps) else None

    def _add(self, span: Span, data: Tensor) -> None:
        for start, flat in self._entries:
            low, high = max(start, span.start), min(start + flat.numel() * flat.itemsize, span.stop)
            if low < high:
                value = data[low - span.start : high - span.start]
                if value.storage_offset() % flat.itemsize:
                    value = value.clone()
                size = flat.itemsize
                accumulate(flat[(low - start) // size : (high - start) // size], value.view(flat.dtype), 1.0, first=False)


def _entries(total: WeightedSum) -> Sequence[tuple[int, Tensor]]:
    """Where each entry that is summed begins, in bytes, and its values, flat."""
    tensors: Mapping[str, Mapping[str, Tensor]] = total.tensors
    return [
        (start, tensors[group][name].reshape(-1))
        for group, name, _, start in placed(total.memory.specs)
        if group in tensors and name in tensors[group]
    ]
