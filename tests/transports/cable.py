"""A way between two sockets that a test can cut, block and mend."""

import socket
import struct
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Self


class Cable:
    """A way to a listening socket that can be cut (connections break), blocked (nothing passes any more) and mended.

    Args:
        target: `host:port`, or what says it when a connection comes.
    """

    def __init__(self, target: str | Callable[[], str]) -> None:
        self._target = target
        self._connections = 0
        self._server = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._server.getsockname()[1]}"
        self._whole = True
        self._flowing = threading.Event()
        self._flowing.set()
        self._lock = threading.Lock()
        self._sockets: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def passing(self, number: int, data: bytes, *, there: bool) -> bytes:
        """What becomes of `data` of connection `number`, from 0, on its way `there` (to the target) or back."""
        del number, there
        return data

    def cut(self) -> None:
        """Break every connection, and refuse new ones."""
        with self._lock:
            self._whole = False
            for each in self._sockets:
                with suppress(OSError):
                    # Closed like this, the other side gets a reset.
                    each.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    each.shutdown(socket.SHUT_RDWR)
            self._sockets.clear()
        self._flowing.set()

    def block(self) -> None:
        """Let nothing pass, so that each side can only notice that the other one is silent."""
        self._flowing.clear()

    def unblock(self) -> None:
        """Let pass what was held up."""
        self._flowing.set()

    def mend(self) -> None:
        """Let new connections pass; those that were blocked are gone."""
        self.cut()
        self._whole = True

    def close(self) -> None:
        self.cut()
        with suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        for thread in self._threads:
            thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._server.accept()
            except OSError:
                return
            self._connect(near)

    def _connect(self, near: socket.socket) -> None:
        with self._lock:
            try:
                if not self._whole:
                    raise ConnectionRefusedError
                host, _, port = (self._target if isinstance(self._target, str) else self._target()).rpartition(":")
                far = socket.create_connection((host, int(port)))
            except OSError:
                near.close()
                return
            self._sockets += [near, far]
            for source, sink in ((near, far), (far, near)):
                thread = threading.Thread(target=self._pump, args=(source, sink, self._connections, source is near), daemon=True)
                self._threads.append(thread)
                thread.start()
            self._connections += 1

    def _pump(self, source: socket.socket, sink: socket.socket, number: int, there: bool) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                self._flowing.wait()
                sink.sendall(self.passing(number, data, there=there))
        for each in (source, sink):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        source.close()
