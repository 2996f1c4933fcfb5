"""A worker's endpoint on a network: gRPC streams in a background loop, blocking calls in front."""

import asyncio
import itertools
import logging
import secrets
from collections.abc import Mapping, Sequence
from math import inf
from threading import Lock
from typing import Literal

from typing_extensions import override

from transports.base import Channel, ChannelSpec, Gate, Limits
from transports.core import CoreEndpoint
from transports.errors import AddressError, PeerLost
from transports.grpc_channel import frames
from transports.grpc_channel.channel import GrpcChannel
from transports.grpc_channel.dial import Dialler
from transports.grpc_channel.frames import MAX_CHUNK_BYTES
from transports.grpc_channel.host import Host, is_loopback
from transports.grpc_channel.loop import LoopThread
from transports.grpc_channel.security import Clear, Security
from transports.grpc_channel.stream import Instance
from transports.grpc_channel.transfer import BufferPool
from transports.shared_memory.pool import SharedMemory

logger = logging.getLogger(__name__)

Checksum = Literal["auto", "always", "never"]
_WILDCARDS = {"0.0.0.0", "[::]", "::", "*", ""}  # noqa: S104 - recognised, not bound
_CALL_TIMEOUT = 30.0
_LOGGED_REFUSALS = 100


class GrpcEndpoint(CoreEndpoint):
    """A worker that other processes and machines can reach.

    Args:
        name: name of the worker, as in the plan.
        token: secret of the job; who does not know it is refused.
        bind: `host:port` to listen on where ends dial us; port 0 takes any free one.
        advertise: host, or `host:port`, that others dial; default the host of `bind`.
        limits: bounds on what peers may send.
        chunk_bytes: size of the pieces a payload travels in, up to 16 MiB.
        join_timeout: seconds to try to reach a peer whose address is known, and that a peer may be early.
        checksum: whether payloads carry a CRC-32; `auto`: unless the peer is on the loopback interface.
        heartbeat: seconds after which a peer that does not answer is away: its process is frozen, or the network broken.
        security: protects the connections; default none but the token. Its maker closes it.
        gate: surrounds each blocking wait.
        loop: thread to share between endpoints of one process; default one of its own. Its maker closes it.

    Raises:
        ValueError: an argument out of its range, or a wildcard in `bind` without `advertise`.
    """

    def __init__(
        self,
        name: str,
        *,
        token: str,
        bind: str = "127.0.0.1:0",
        advertise: str | None = None,
        limits: Limits | None = None,
        chunk_bytes: int = 2**20,
        join_timeout: float = 60.0,
        checksum: Checksum = "auto",
        heartbeat: float = 30.0,
        security: Security | None = None,
        gate: Gate | None = None,
        loop: LoopThread | None = None,
    ) -> None:
        super().__init__(name, gate, limits)
        if not token or not 0 < chunk_bytes <= MAX_CHUNK_BYTES or checksum not in ("auto", "always", "never"):
            raise ValueError(f"{name}: token empty, chunk_bytes={chunk_bytes} or checksum={checksum!r} out of range")
        if not 0 < heartbeat < inf:
            raise ValueError(f"{name}: heartbeat={heartbeat} is not a time above 0 in seconds")
        host, colon, port = bind.rpartition(":")
        if not colon or not port.isdecimal() or (host in _WILDCARDS and advertise is None):
            raise ValueError(f"{name}: bind={bind!r} is no host:port, or a wildcard that needs advertise=HOST")
        self.token = token.encode()
        self.security = security or Clear()
        self.chunk_bytes = chunk_bytes
        self.join_timeout = join_timeout
        self.channels: dict[str, GrpcChannel] = {}
        self.addresses: dict[str, str] = {}
        self.pool = BufferPool()
        self.parts = BufferPool()
        self.memory = SharedMemory(name)
        self.opened = asyncio.Condition()
        self.refused = 0
        self.heartbeat = heartbeat
        self._instance = Instance(secrets.token_bytes(16))
        self._bind, self._advertise, self._checksum = bind, advertise or host, checksum
        self._address: str | None = None
        self._numbers = itertools.count(1)
        self._lock = Lock()
        self._closed = False
        self._own_loop = loop is None
        self.loop = loop or LoopThread(f"flame-run {name}")
        self._host = Host(self)
        self._dialler = Dialler(self)

    @property
    @override
    def address(self) -> str | None:
        return self._address

    def listen(self) -> str:
        """Start to listen, before any channel is open; returns the address. Does nothing if it listens.

        Raises:
            AddressError: `bind` cannot be listened on.
            Aborted: the endpoint is closed.
        """
        self._check_open()
        with self._lock:
            if self._address is None:
                port = self.loop.run(self._host.start(self._bind), _CALL_TIMEOUT)
                explicit = self._advertise.rpartition(":")[2].isdecimal() and not self._advertise.endswith("]")
                self._address = self._advertise if explicit else f"{self._advertise}:{port}"
            return self._address

    @override
    def open(self, spec: ChannelSpec) -> Channel:
        self._check_open()
        if spec.backend not in ("auto", "grpc", "shm"):
            raise ValueError(f"channel {spec.name!r}: backend {spec.backend!r} does not leave the process; use auto, grpc or shm")
        if set(spec.ends) - spec.dials:
            self.listen()
        channel = GrpcChannel(spec, self)
        self.loop.run(self._open(channel), _CALL_TIMEOUT)
        return channel

    async def _open(self, channel: GrpcChannel) -> None:
        spec = channel.spec
        if spec.name in self.channels:
            raise ValueError(f"{self.name} has {channel} open already")
        async with self.opened:
            self.channels[spec.name] = channel
            self.opened.notify_all()
        self._dial(spec.ends)

    @override
    def connect(self, addresses: Mapping[str, str]) -> None:
        self._check_open()
        for end, address in addresses.items():
            host, _, port = address.rpartition(":")
            if not host or not port.isdecimal():
                raise AddressError(f"{end}: {address!r} is no host:port")
        self.loop.post(self._connect, dict(addresses))

    def _connect(self, addresses: dict[str, str]) -> None:
        changed = [end for end, address in addresses.items() if self.addresses.get(end) != address]
        for end in changed:
            if end in self.addresses or end in self.forgotten:
                self._renew(end)
        self.addresses.update(addresses)
        self._dial(changed)

    def _renew(self, end: str) -> None:
        self.forgotten.pop(end, None)
        for channel in self._channels_with(end):
            channel.renew(end)
        self._dialler.drop(end)

    def _dial(self, ends: Sequence[str]) -> None:
        for end in ends:
            for channel in self._channels_with(end):
                if end in self.forgotten:
                    channel.give_up_on(end, PeerLost(end, self.forgotten[end]))
                elif end in channel.spec.dials and end in self.addresses:
                    self._dialler.dial(channel, end)

    def _channels_with(self, end: str) -> list[GrpcChannel]:
        return [channel for channel in self.channels.values() if end in channel.spec.ends]

    @override
    def forget(self, worker: str, reason: str) -> None:
        self.loop.post(self._forget, worker, reason)

    def _forget(self, worker: str, reason: str) -> None:
        self.forgotten[worker] = reason
        for channel in self._channels_with(worker):
            channel.give_up_on(worker, PeerLost(worker, reason))
        self._dialler.drop(worker)

    @override
    def close(self, timeout: float = 5.0) -> None:
        with self._lock:
            if self._closed:
                return
            self._closed = True
        reason = self.mailbox.aborted
        try:
            self.loop.run(self._close(reason or f"{self.name} left", timeout, clean=reason is None), 2 * timeout + 5.0)
        finally:
            self.mailbox.abort(f"{self.name} is closed")
            self.memory.close()
            if self._own_loop:
                self.loop.close()

    async def _close(self, reason: str, seconds: float, *, clean: bool) -> None:
        self._dialler.hold()
        links = [link for channel in self.channels.values() for link in channel.links.values()]
        for link in links:
            link.leave(reason, clean=clean)
        for channel in self.channels.values():
            channel.give_up(reason)
        if links:
            await asyncio.wait([asyncio.create_task(link.over.wait()) for link in links], timeout=seconds)
        await self._dialler.stop(seconds / 4)
        await self._host.stop(seconds / 4)

    def next_instance(self) -> Instance:
        """Which process this is, with a number larger than all before."""
        self._instance = self._instance.next()
        return self._instance

    def next_number(self) -> int:
        """A number larger than all before; for offers."""
        return next(self._numbers)

    def count_refused(self, what: str) -> None:
        """Log and count something that was refused."""
        self.refused += 1
        if self.refused <= _LOGGED_REFUSALS:
            logger.warning("%s refused %s", self.name, frames.readable(what))
        elif self.refused.bit_count() == 1:
            # Who can make us write a line can fill the disk: from here on each power of two.
            logger.warning("%s refused %s; the %dth that it refused", self.name, frames.readable(what), self.refused)

    def wants_checksum(self, peer: str) -> bool:
        """Whether payloads to this peer carry checksums."""
        return self._checksum == "always" or (self._checksum == "auto" and not is_loopback(peer))
