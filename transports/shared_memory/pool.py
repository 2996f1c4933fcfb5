"""The shared memory of one endpoint: segments used again round after round, payloads of others mapped."""

import errno
import logging
from threading import Lock

from transports.shared_memory.segment import Handle, Segment, SharedPayload, map_payload

logger = logging.getLogger(__name__)

_KEPT_SEGMENTS = 4
_GONE = (errno.ENOENT, errno.ESRCH)


class SharedMemory:
    """Lends segments and takes them back by itself when their last user is gone.

    Fresh pages cost several times the copy that fills them, so a few segments are kept. One that is in use for longer
    than that is forgotten: its users go on, and its memory is freed after the last of them.

    Args:
        name: of the worker, for warnings. Each kind of warning is given once.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._lock = Lock()
        self._segments: list[Segment] = []
        self._closed = False
        self._warned: set[str] = set()

    def take(self, nbytes: int) -> SharedPayload | None:
        """A payload of `nbytes` bytes with any content; None where there is no room for it."""
        with self._lock:
            payload = self._again(nbytes)
            if payload is not None or self._closed:
                return payload
        try:
            segment = self._make(nbytes)
        except OSError as error:
            self._warn("room", f"no shared memory for {nbytes} bytes ({error}); payloads travel through gRPC")
            return None
        payload = segment.fill(nbytes)
        with self._lock:
            if not self._closed:
                self._segments = [*self._segments, segment][-_KEPT_SEGMENTS:]
        return payload

    def open(self, handle: Handle, nbytes: int, end: str) -> SharedPayload | None:
        """The payload of `end` at `handle`; None where it cannot be reached."""
        try:
            return map_payload(handle, nbytes)
        except OSError as error:
            if error.errno not in _GONE:
                self._warn("map", f"the shared memory of {end} cannot be mapped ({error}); payloads travel through gRPC")
            return None

    def close(self) -> None:
        """Forget all segments and lend no more; those in use go with their last user. Idempotent."""
        with self._lock:
            self._closed = True
            self._segments = []

    def _again(self, nbytes: int) -> SharedPayload | None:
        for segment in self._segments:
            if nbytes <= segment.capacity <= 2 * nbytes and (payload := segment.fill(nbytes)) is not None:
                self._segments = [*(other for other in self._segments if other is not segment), segment]
                return payload
        return None

    def _make(self, nbytes: int) -> Segment:
        try:
            return Segment(nbytes)
        except OSError:
            # What is kept for messages of another size may be in the way.
            with self._lock:
                self._segments = []
            return Segment(nbytes)

    def _warn(self, kind: str, what: str) -> None:
        with self._lock:
            first = kind not in self._warned
            self._warned.add(kind)
        if first:
            logger.warning("%s: %s", self._name, what)
