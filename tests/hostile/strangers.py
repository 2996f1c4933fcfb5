"""Whoever should not be here: each function attacks one port of a running job and says how that went."""

import itertools
import random
import selectors
import socket
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Self

import grpc

from flame_run.control import wire
from tests.hostile import h2
from transports.grpc_channel import frames
from transports.grpc_channel.host import Hello

SOON = 60.0
TLS_HELLO = bytes.fromhex("160301012c010001280303") + bytes(range(64))
"""The first bytes of what a client of TLS says, and no more of it."""
TICK = 0.2
"""Seconds between two bytes of a slow sender."""


@dataclass(frozen=True, slots=True)
class Door:
    """A port of a job."""

    port: int
    control: bool
    """Whether the controller listens there, or a worker."""

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def path(self) -> str:
        return f"/{wire.SERVICE}/{wire.METHOD}" if self.control else f"/{frames.SERVICE}/{frames.METHOD}"

    def hello(self, token: str, name: str) -> tuple[tuple[tuple[str, str | bytes], ...], list[bytes]]:
        """Metadata and first messages of a call as `name`."""
        if self.control:
            return ((wire.TOKEN_KEY, token),), [wire.register(name, 1, "here")]
        return Hello(token.encode(), str(frames.VERSION), "param-channel", "default", name).metadata(), []

    def connected(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=SOON)


@contextmanager
def channel_to(door: Door, credentials: grpc.ChannelCredentials | None = None) -> Iterator[Any]:
    options: list[tuple[str, Any]] = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0)]
    options.append(("grpc.max_send_message_length", -1))
    if credentials is None:
        made = grpc.insecure_channel(door.address, options)
    else:
        made = grpc.secure_channel(door.address, credentials, [*options, ("grpc.ssl_target_name_override", "worker.flame-run")])
    with made as channel:
        yield channel.stream_stream(door.path)


def outcome(call: Any) -> tuple[grpc.StatusCode, str]:
    """How a call ended."""
    with suppress(grpc.RpcError):
        for _ in call:
            pass
    return call.code(), call.details() or ""


def knock(
    door: Door,
    token: str,
    name: str,
    *,
    credentials: grpc.ChannelCredentials | None = None,
    messages: Sequence[bytes] | None = None,
    metadata: Iterable[tuple[str, str | bytes]] = (),
) -> tuple[grpc.StatusCode, str]:
    """Call as `name`; `messages` instead of what one says first, `metadata` beside it."""
    known, first = door.hello(token, name)
    with channel_to(door, credentials) as method:
        return outcome(
            method(iter(first if messages is None else messages), metadata=(*known, *metadata), timeout=SOON, wait_for_ready=False)
        )


def flood_of_calls(door: Door, token: str, name: str, count: int) -> Counter[str]:
    """Many calls at once on one connection; returns how often each status came."""
    metadata, first = door.hello(token, name)
    with channel_to(door) as method:
        calls = [method(iter(first), metadata=metadata, timeout=SOON) for _ in range(count)]
        return Counter(outcome(each)[0].name for each in calls)


def swallowed(stranger: socket.socket) -> bool:
    """Read until the other side hangs up; False if it did not within `SOON`."""
    try:
        while stranger.recv(2**16):
            pass
    except ConnectionError:
        return True
    except TimeoutError:
        return False
    return True


def say(door: Door, data: bytes) -> bool:
    """Say `data` on a connection of one's own and then nothing more; returns whether the other side hung up."""
    with door.connected() as stranger:
        with suppress(OSError):  # it has hung up already
            stranger.sendall(data)
            stranger.shutdown(socket.SHUT_WR)
        return swallowed(stranger)


def nonsense(door: Door, seed: int) -> list[bytes]:
    """What is no call of gRPC: other protocols, bytes that mean nothing, HTTP/2 that breaks its rules."""
    draw = random.Random(seed)
    opened = h2.PREFACE + h2.frame(h2.SETTINGS)
    return [
        b"GET / HTTP/1.1\r\nHost: here\r\n\r\n",
        b"POST " + door.path.encode() + b" HTTP/1.0\r\nContent-Length: 99999999\r\n\r\n" + b"x" * 10_000,
        TLS_HELLO,
        *(draw.randbytes(draw.randrange(1, 5000)) for _ in range(20)),
        *(opened + draw.randbytes(draw.randrange(1, 5000)) for _ in range(20)),
        opened + h2.frame(draw.randrange(256), draw.randrange(256), 2**31 - 1, b"x" * 100),
        opened + b"\xff\xff\xff" + bytes(6),
        h2.endless_headers(door.path, 200),
        h2.hello(door.path) + h2.frame(h2.DATA, 0, 1, b"\0\xff\xff\xff\xff" + bytes(1000)),
        h2.hello(door.path) + h2.frame(h2.DATA, 0, 1, b"\1" + bytes(4)) * 50,
        opened + b"".join(h2.frame(h2.PING, 0, 0, bytes(8)) for _ in range(2000)),
        opened
        + b"".join(h2.frame(h2.HEADERS, 5, at, h2.call(door.path)) + h2.frame(3, 0, at, bytes(4)) for at in range(1, 400, 2)),
    ]


def _called_and_reset(door: Door, stream: int) -> bytes:
    opening = h2.frame(h2.HEADERS, h2.END_STREAM | h2.END_HEADERS, stream, h2.call(door.path))
    return opening + h2.frame(h2.RST_STREAM, 0, stream, bytes(4))


class SlowSenders:
    """Connections that say their call one byte at a time, or nothing at all, for as long as they are let.

    Args:
        doors: where to.
        each: how many of either kind at each.
        said: what they begin to say; default a call of gRPC.
    """

    def __init__(self, doors: Sequence[Door], each: int, said: bytes | None = None) -> None:
        self._selector = selectors.DefaultSelector()
        self.left = 0
        """Connections that nobody has hung up on."""
        self._stop = threading.Event()
        self._done = threading.Event()
        for door, speaks in itertools.product(doors, [True, False] * each):
            stranger = door.connected()
            stranger.setblocking(False)
            text = iter(said or h2.hello(door.path)) if speaks else iter(b"")
            self._selector.register(stranger, selectors.EVENT_READ, text)
            self.left += 1
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while self.left and not self._stop.is_set():
            gone = [key.fileobj for key, _ in self._selector.select(TICK) if not self._answered(key.fileobj)]
            for key in list(self._selector.get_map().values()):
                if key.fileobj in gone or not self._spoke(key.fileobj, key.data):
                    self._selector.unregister(key.fileobj)
                    key.fileobj.close()  # type: ignore[union-attr]
                    self.left -= 1
        self._done.set()

    @staticmethod
    def _answered(stranger: Any) -> bool:
        try:
            return bool(stranger.recv(4096))
        except BlockingIOError:
            return True
        except OSError:
            return False

    @staticmethod
    def _spoke(stranger: Any, text: Iterator[int]) -> bool:
        try:
            if (byte := next(text, None)) is not None:
                stranger.send(bytes([byte]))
        except OSError:
            return False
        return True

    def dropped(self, timeout: float) -> bool:
        """Wait until all are hung up on."""
        return self._done.wait(timeout)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        for key in list(self._selector.get_map().values()):
            key.fileobj.close()  # type: ignore[union-attr]
        self._selector.close()
