"""Watches processes of this machine that are nobody's children here: those of launchers that tell nothing of them."""

import logging
import os
import queue
import selectors
import signal
import socket
import threading
from collections.abc import Callable
from contextlib import suppress

log = logging.getLogger(__name__)
Ended = Callable[[str, int], None]
"""Called with the name under which a process is watched, and its id, when it has ended."""


class Sentinels:
    """Watches any number of processes in one thread, without polling. Source: pidfd_open(2).

    Args:
        ended: told of each end, from that thread.

    """

    def __init__(self, ended: Ended) -> None:
        self._ended = ended
        self._host = socket.gethostname()
        self._lock = threading.Lock()
        self._descriptors: dict[str, int] = {}
        self._new: queue.SimpleQueue[tuple[str, int, int]] = queue.SimpleQueue()
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._thread: threading.Thread | None = None
        self._closed = False

    def watch(self, name: str, pid: int, host: str) -> None:
        """Watch process `pid` of `host` under `name`, in place of the one before. One that cannot be seen from here is left out."""
        if host != self._host or self._closed:
            return
        try:
            descriptor = os.pidfd_open(pid)
        except OSError as error:
            log.info("process %d of %s cannot be watched: %s", pid, name, error)
            return
        with self._lock:
            self._descriptors[name] = descriptor
        self._new.put((name, pid, descriptor))
        os.eventfd_write(self._wake, 1)
        if self._thread is None:
            self._thread = threading.Thread(target=self._follow, name="process-sentinels", daemon=True)
            self._thread.start()

    def kill(self, name: str) -> bool:
        """Kill the process watched under `name` with SIGKILL; False if there is none."""
        with self._lock:
            descriptor = self._descriptors.get(name)
            if descriptor is None:
                return False
            # By descriptor: a number that is used again cannot be hit.
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(descriptor, signal.SIGKILL)
            return True

    def close(self) -> None:
        """Watch nothing any more. Idempotent."""
        if self._closed:
            return
        self._closed = True
        os.eventfd_write(self._wake, 1)
        if self._thread is not None:
            self._thread.join()
        os.close(self._wake)

    def _follow(self) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._wake, selectors.EVENT_READ)
            while not self._closed:
                for key, _ in selector.select():
                    if key.fd == self._wake:
                        os.eventfd_read(self._wake)
                        while not self._new.empty():
                            name, pid, descriptor = self._new.get()
                            selector.register(descriptor, selectors.EVENT_READ, (name, pid))
                    else:
                        selector.unregister(key.fd)
                        self._forget(key.data[0], key.fd)
                        self._ended(*key.data)
            for key in list(selector.get_map().values()):
                if key.fd != self._wake:
                    self._forget(key.data[0], key.fd)

    def _forget(self, name: str, descriptor: int) -> None:
        with self._lock:
            if self._descriptors.get(name) == descriptor:
                del self._descriptors[name]
            os.close(descriptor)
