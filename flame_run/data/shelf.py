"""Arrays that are in memory once, however many workers of the process read them."""

import threading
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from torch import Tensor

Arrays = tuple[Tensor, Tensor]


class Shelf:
    """What was read from files, for as long as the shelf is there. Who takes arrays from it must not write to them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._arrays: dict[Hashable, Arrays] = {}

    def get(self, key: Hashable, read: Callable[[], Arrays]) -> Arrays:
        """What lies under `key`; put there by `read`, if nothing does."""
        with self._lock:
            if key not in self._arrays:
                self._arrays[key] = read()
            return self._arrays[key]

    @contextmanager
    def used(self) -> Iterator[None]:
        """Let `load_arrays` in this thread take from the shelf."""
        token = SHELF.set(self)
        try:
            yield
        finally:
            SHELF.reset(token)


SHELF: ContextVar[Shelf | None] = ContextVar("shelf", default=None)
"""The shelf of this thread; None: a worker that has its process for itself keeps only what it needs."""
