"""A socket that forwards to another one and keeps what each connection said, so that it can be said again."""

import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Self


class Recorder:
    """Listens on loopback and forwards to wherever `target` says when a connection comes.

    Args:
        target: the port of this machine to forward to.
    """

    def __init__(self, target: Callable[[], int]) -> None:
        self._target = target
        self._server = socket.create_server(("127.0.0.1", 0))
        self._lock = threading.Lock()
        self._said: list[bytearray] = []
        self._sockets = [self._server]
        self._threads: list[threading.Thread] = []
        self.address = f"127.0.0.1:{self._server.getsockname()[1]}"
        self._begin(self._accept)

    def said(self) -> list[bytes]:
        """What each connection has said so far, those that said nothing left out."""
        with self._lock:
            return [bytes(each) for each in self._said if each]

    def _begin(self, function: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=function, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with suppress(OSError):  # closed
            while True:
                near, _ = self._server.accept()
                far = socket.create_connection(("127.0.0.1", self._target()))
                kept = bytearray()
                with self._lock:
                    self._said.append(kept)
                self._sockets += [near, far]
                self._begin(self._forward, near, far, kept)
                self._begin(self._forward, far, near, None)

    def _forward(self, source: socket.socket, sink: socket.socket, kept: bytearray | None) -> None:
        with suppress(OSError):  # either side has gone
            while data := source.recv(2**16):
                if kept is not None:
                    with self._lock:
                        kept += data
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
