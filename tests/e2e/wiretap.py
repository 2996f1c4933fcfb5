"""A forwarding socket that keeps every byte of both directions."""

import socket
import threading
from contextlib import suppress
from types import TracebackType
from typing import Self


class Wiretap:
    """Listens on loopback, forwards each connection to `target` (`host:port`), and keeps what it saw."""

    def __init__(self, target: str) -> None:
        host, _, port = target.rpartition(":")
        self._target = (host, int(port))
        self._lock = threading.Lock()
        self._seen = {"there": bytearray(), "back": bytearray()}
        self._sockets = [socket.create_server(("127.0.0.1", 0))]
        self._threads: list[threading.Thread] = []
        self.address = f"127.0.0.1:{self._sockets[0].getsockname()[1]}"
        self._begin(self._accept)

    def seen(self, direction: str) -> bytes:
        """What went `there` (to the target), or came `back`."""
        with self._lock:
            return bytes(self._seen[direction])

    def _begin(self, function: object, *arguments: object) -> None:
        thread = threading.Thread(target=function, args=arguments, daemon=True)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with suppress(OSError):  # closed
            while True:
                near, _ = self._sockets[0].accept()
                far = socket.create_connection(self._target)
                self._sockets += [near, far]
                self._begin(self._forward, near, far, "there")
                self._begin(self._forward, far, near, "back")

    def _forward(self, source: socket.socket, sink: socket.socket, direction: str) -> None:
        with suppress(OSError):  # either side has gone
            while data := source.recv(2**16):
                with self._lock:
                    self._seen[direction] += data
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for each in self._sockets:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()
        for thread in self._threads:
            thread.join(5)
