"""An update that is added while it comes in, so that no aggregator ever holds a whole one."""

from collections.abc import Mapping

from torch import Tensor

from roles.rounds.average import WEIGHTS, WeightedSum, accumulate
from roles.rounds.check import check_values
from transports.message import Header, placed


class Adding:
    """One update on its way into a sum, piece by piece, each checked before it is added.

    A piece that cannot be used comes when others are in the sum already: then the sum is spoilt and has to be made anew
    from the updates of the round, which their senders keep until it closes.

    Args:
        total: the sum.
        header: of the update; its entries and types have been checked.
    """

    def __init__(self, total: WeightedSum, header: Header) -> None:
        self._total = total
        self._scalars = header.scalars
        self._entries = header.specs.get(WEIGHTS, {})
        self._factor = 1.0 if header.scalars.get("merged") else float(header.scalars["weight"])
        self._places = [
            (start, start + spec.nbytes, (group, name), spec.dtype) for group, name, spec, start in placed(header.specs)
        ]
        self._flat: Mapping[tuple[str, str], Tensor] = {
            (group, name): value.reshape(-1) for group, totals in total.tensors.items() for name, value in totals.items()
        }
        self._at = 0
        self.begun = False
        """Whether anything of the update is in the sum."""

    def take(self, offset: int, piece: Tensor) -> str | None:
        """Check the bytes from `offset` on (uint8, contiguous) and add them; the reason if they cannot be used."""
        stop = offset + piece.numel()
        while self._at < len(self._places):
            start, end, name, dtype = self._places[self._at]
            low, high = max(start, offset), min(end, stop)
            if low < high:
                value = piece[low - offset : high - offset].view(dtype)
                reason = check_values({name[1]: value})
                if reason is not None:
                    return reason
                size = dtype.itemsize
                total = self._flat[name][(low - start) // size : (high - start) // size]
                accumulate(total, value, self._factor, first=self._total.first(*name))
                self.begun = True
            if end > stop:
                break
            self._at += 1
        return None

    def end(self) -> None:
        """Count the update in: all of it was added."""
        self._total.count_in(self._scalars, self._entries)
