"""A way to a listening socket that keeps what passes."""

import threading
from collections import defaultdict
from collections.abc import Callable
from typing import Literal

from typing_extensions import override

from tests.transports.cable import Cable

Direction = Literal["there", "back"]


class Wiretap(Cable):
    """Keeps every byte that goes `there` (to the target) or comes `back`; see `Cable`."""

    def __init__(self, target: str | Callable[[], str]) -> None:
        self._keeping = threading.Lock()
        self._kept: dict[Direction, defaultdict[int, bytearray]] = {"there": defaultdict(bytearray), "back": defaultdict(bytearray)}
        super().__init__(target)

    @override
    def passing(self, number: int, data: bytes, *, there: bool) -> bytes:
        with self._keeping:
            self._kept["there" if there else "back"][number] += data
        return data

    def said(self, direction: Direction = "there") -> list[bytes]:
        """What each connection has said so far in that direction, those that said nothing left out."""
        with self._keeping:
            return [bytes(data) for _, data in sorted(self._kept[direction].items())]

    def seen(self, direction: Direction) -> bytes:
        """The same of all connections."""
        return b"".join(self.said(direction))
