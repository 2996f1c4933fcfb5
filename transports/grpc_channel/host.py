"""The side that listens: admits peers that know the token and belong to a channel, and nobody else."""

import asyncio
import hmac
import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import unquote

import grpc
import grpc.aio

from transports.errors import AddressError, Refused
from transports.grpc_channel import frames
from transports.grpc_channel.channel import GrpcChannel, Hosting
from transports.grpc_channel.link import Link
from transports.grpc_channel.security import Security
from transports.grpc_channel.stream import Instance

Context = grpc.aio.ServicerContext[bytes, bytes]


class _Stranger(Exception):
    def __init__(self, code: grpc.StatusCode, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Hello:
    """What a peer says of itself when it connects."""

    token: bytes
    version: str
    channel: str
    group: str
    name: str
    machine: str = ""
    """Equal at both sides: they can share memory. Empty: it does not want to."""
    instance: Instance | None = None
    """Which process it is."""

    def metadata(self) -> tuple[tuple[str, str | bytes], ...]:
        """Metadata that opens a stream."""
        return (
            (frames.TOKEN_KEY, self.token),
            (frames.VERSION_KEY, self.version),
            (frames.CHANNEL_KEY, self.channel.encode()),
            (frames.GROUP_KEY, self.group.encode()),
            (frames.NAME_KEY, self.name.encode()),
            (frames.MACHINE_KEY, self.machine),
            (frames.INSTANCE_KEY, self.instance.to_bytes() if self.instance is not None else b""),
        )


def read_hello(metadata: Iterable[tuple[str, str | bytes]]) -> Hello:
    """What a peer says of itself; empty where it says nothing."""
    found = {key: value.encode() if isinstance(value, str) else bytes(value) for key, value in metadata}

    def text(key: str) -> str:
        return found.get(key, b"").decode("utf-8", "replace")

    return Hello(
        token=found.get(frames.TOKEN_KEY, b""),
        version=text(frames.VERSION_KEY),
        channel=text(frames.CHANNEL_KEY),
        group=text(frames.GROUP_KEY),
        name=text(frames.NAME_KEY),
        machine=text(frames.MACHINE_KEY),
        instance=Instance.from_bytes(found.get(frames.INSTANCE_KEY, b"")),
    )


def is_loopback(peer: str) -> bool:
    """Whether a peer, as gRPC or as `host:port` names it, is on this machine."""
    host = unquote(peer).removeprefix("ipv4:").removeprefix("ipv6:").rpartition(":")[0].strip("[]")
    if host == "localhost" or peer.startswith("unix:"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class HostOwner(Hosting, Protocol):
    """What the listening side needs of its endpoint."""

    channels: dict[str, GrpcChannel]
    opened: asyncio.Condition
    token: bytes
    security: Security
    join_timeout: float
    heartbeat: float
    forgotten: dict[str, str]

    def wants_checksum(self, peer: str) -> bool:
        """Whether payloads to this peer carry checksums."""


class Host:
    """A gRPC server for the channels of an endpoint."""

    def __init__(self, owner: HostOwner) -> None:
        self._owner = owner
        self._server: Any = None

    async def start(self, bind: str) -> int:
        """Listen on `bind` (`host:port`, port 0 for any); returns the port.

        Raises:
            AddressError: the address is taken or none of this machine.
        """
        self._server = grpc.aio.server(options=frames.host_options(self._owner.limits, self._owner.heartbeat))
        handler: Any = grpc.stream_stream_rpc_method_handler(self._exchange)
        service = grpc.method_handlers_generic_handler(frames.SERVICE, {frames.METHOD: handler})
        self._server.add_generic_rpc_handlers((service,))
        try:
            port: int = self._owner.security.listen(self._server, bind, self._owner.count_refused)
        except RuntimeError as error:
            await self.stop(0)
            raise AddressError(f"{self._owner.name} cannot listen on {bind}: {error}") from error
        await self._server.start()
        return port

    async def stop(self, grace: float) -> None:
        """Free the port; streams that are open may end by themselves within `grace` seconds."""
        if self._server is not None:
            await self._server.stop(grace)

    async def _exchange(self, _requests: object, context: Context) -> None:
        try:
            hello = self._check(read_hello(context.invocation_metadata() or ()), context)
            channel = await self._find(hello)
        except _Stranger as stranger:
            self._owner.count_refused(f"{context.peer()}: {stranger.reason}")
            await context.abort(stranger.code, stranger.reason)
        checked = self._owner.wants_checksum(context.peer())
        shared = channel.shares_with(hello.machine)
        link = Link(
            self._owner,
            channel,
            hello.name,
            context,
            channel.detach,
            checked=checked,
            shared=shared,
            instance=hello.instance,
        )
        link.put(frames.welcome(self._owner.name, channel.machine))
        channel.attach(link)
        await link.run()
        if link.violation is not None:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, link.violation)
        if link.cut_off:
            await context.abort(grpc.StatusCode.UNAVAILABLE, link.reason)

    def _check(self, hello: Hello, context: Context) -> Hello:
        if (reason := self._owner.security.why_not(context) or self._owner.security.why_not(context, hello.name)) is not None:
            raise _Stranger(grpc.StatusCode.PERMISSION_DENIED, reason)
        if not hmac.compare_digest(hello.token, self._owner.token):
            raise _Stranger(grpc.StatusCode.UNAUTHENTICATED, "wrong token")
        if hello.version != str(frames.VERSION):
            reason = f"protocol version {hello.version[:20]!r} is not {frames.VERSION}"
            raise _Stranger(grpc.StatusCode.FAILED_PRECONDITION, reason)
        return hello

    async def _find(self, hello: Hello) -> GrpcChannel:
        channels = self._owner.channels
        place = f"{self._owner.name}, channel {hello.channel!r}"
        async with self._owner.opened:
            try:
                async with asyncio.timeout(self._owner.join_timeout):
                    await self._owner.opened.wait_for(lambda: hello.channel in channels)
            except TimeoutError:
                reason = f"{place}: not open after {self._owner.join_timeout:g} s"
                raise _Stranger(grpc.StatusCode.NOT_FOUND, reason) from None
        channel = channels[hello.channel]
        if hello.group != channel.spec.group:
            reason = f"{place}: group {hello.group!r} is not {channel.spec.group!r}"
            raise _Stranger(grpc.StatusCode.PERMISSION_DENIED, reason)
        if hello.name not in channel.spec.ends:
            raise _Stranger(grpc.StatusCode.PERMISSION_DENIED, f"{place}: {hello.name!r} is none of its ends")
        if hello.name in self._owner.forgotten:
            reason = f"{place}: {hello.name!r} was given up: {self._owner.forgotten[hello.name]}"
            raise _Stranger(grpc.StatusCode.PERMISSION_DENIED, reason)
        old = channel.links.get(hello.name)
        if old is not None and not (hello.instance is not None and hello.instance.replaces(old.instance)):
            raise _Stranger(grpc.StatusCode.ALREADY_EXISTS, f"{place}: {hello.name!r} is connected already")
        refusal = channel.why_not(hello.name, hello.machine)
        if refusal is not None:
            channel.give_up_on(hello.name, Refused(refusal))
            raise _Stranger(grpc.StatusCode.FAILED_PRECONDITION, refusal)
        if old is not None:
            old.cut("its connection broke: it came back over another one")
        return channel
