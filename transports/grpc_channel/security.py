"""How the gRPC connections of a worker are protected: the seam that TLS hooks into, and the plain connections without it."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol

import grpc
import grpc.aio
from typing_extensions import override

Options = Sequence[tuple[str, int | str]]
Metadata = tuple[tuple[str, str | bytes], ...]


class Caller(Protocol):
    """What is known of a stream's other side before a byte of it is read; gRPC's servicer context."""

    def peer(self) -> str:
        """Where it comes from."""

    def auth_context(self) -> Mapping[str, Iterable[bytes]]:
        """What TLS has found out."""

    def invocation_metadata(self) -> Iterable[tuple[str, str | bytes]] | None:
        """What it says of itself."""


class Security(ABC):
    """Protects the connections of one process: those it accepts and those it opens. Safe to use from several threads."""

    @abstractmethod
    def listen(self, server: grpc.aio.Server, bind: str, refused: Callable[[str], None]) -> int:
        """Let `server` listen on `bind` (`host:port`, port 0 for any); call it on the loop that the server runs on.

        Args:
            server: not yet started.
            bind: where.
            refused: told, in words, of connections that ended before a stream could begin.

        Returns:
            The port.

        Raises:
            RuntimeError: the address is taken or none of this machine.
        """

    @abstractmethod
    def why_not(self, caller: Caller, name: str | None = None) -> str | None:
        """Why this stream may not go on; None if it may.

        Args:
            caller: the other side.
            name: who it claims to be; None before it has said so.
        """

    @abstractmethod
    async def connect(self, address: str, name: str, options: Options) -> grpc.aio.Channel:
        """A channel to `name` at `address`, where nobody else can be at the other side. The caller closes it.

        Raises:
            ProtocolError: somebody else listens there, or its certificate is no longer good.
            AddressError: nobody listens there yet.
        """

    @abstractmethod
    def connect_blocking(self, address: str, name: str, options: Options, timeout: float) -> grpc.Channel:
        """As `connect`, for gRPC's threads; gives up after `timeout` seconds.

        Raises:
            ProtocolError, AddressError: as `connect`.
        """

    @abstractmethod
    def metadata(self, name: str) -> Metadata:
        """What the next call to `name` adds to its metadata; each answer is for one call."""

    @abstractmethod
    def close(self) -> None:
        """Report what was refused and not reported so far. Idempotent."""


class Clear(Security):
    """No protection on the way: whoever can listen on the network reads along. For loopback."""

    @override
    def listen(self, server: grpc.aio.Server, bind: str, refused: Callable[[str], None]) -> int:
        return server.add_insecure_port(bind)

    @override
    def why_not(self, caller: Caller, name: str | None = None) -> str | None:
        return None

    @override
    async def connect(self, address: str, name: str, options: Options) -> grpc.aio.Channel:
        return grpc.aio.insecure_channel(address, options=options)

    @override
    def connect_blocking(self, address: str, name: str, options: Options, timeout: float) -> grpc.Channel:
        return grpc.insecure_channel(address, options=options)

    @override
    def metadata(self, name: str) -> Metadata:
        return ()

    @override
    def close(self) -> None:
        return
