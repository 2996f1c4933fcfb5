"""The contract between roles and the wire: endpoints, channels, offers, events.

A worker owns one `Endpoint`. It opens a `Channel` for each channel of its plan; a channel connects it
to its *ends*, the peers of the same group. Messages are offered before they are transferred: the
receiver sees the `Header` first and then fetches the payload, or refuses it. That is what bounds the
memory of an aggregator: an update it has not asked for stays with its sender.

Every blocking call takes a timeout in seconds (None: until the endpoint is aborted) and raises
`WaitTimeout` with the names of what it waited for, or `Aborted`.
"""

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Literal, Protocol, Self

import torch
from torch import Tensor

from transports.message import Header, Message, Scalar, Specs

Backend = Literal["auto", "grpc", "shm", "inproc"]
"""How the payloads of a channel travel: `auto` through shared memory where both ends can, else over the network."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelSpec:
    """One worker's view of a channel: its name, its group and who is at the other side."""

    name: str
    group: str
    ends: tuple[str, ...]
    """Peers in the order of the plan."""
    dials: frozenset[str] = frozenset()
    """The ends that this worker connects to; the others connect to it."""
    backend: Backend = "auto"
    """`grpc` never uses shared memory; with `shm` an end that cannot share memory with us is refused.
    Between threads of one process all are the same."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds on what a peer may send; beyond them the peer is refused with `ProtocolError`."""

    max_message_bytes: int = 16 * 2**30
    max_tensors: int = 100_000
    max_header_bytes: int = 32 * 2**20
    max_scalars: int = 10_000
    max_scalar_bytes: int = 2**20
    """Longest text scalar in bytes of UTF-8."""
    max_offers: int = 4096
    """Offers of one end on one channel that wait for an answer."""
    max_offered_bytes: int = 64 * 2**20
    """Bytes that came with those offers: headers, and payloads too small to wait."""


@dataclass(frozen=True, slots=True)
class Joined:
    """`end` is connected and may be sent to."""

    channel: str
    end: str


@dataclass(frozen=True, slots=True)
class Left:
    """`end` is away or gone. `clean`: it said goodbye; otherwise its connection broke."""

    channel: str
    end: str
    reason: str
    clean: bool
    final: bool = False
    """It will not be back: it said goodbye, would not have us, or was forgotten. Otherwise whoever dials tries until it is
    back, and then both sides get `Joined` again."""


@dataclass(frozen=True, slots=True)
class Arrived:
    """`end` offers a message."""

    channel: str
    end: str
    offer: "Offer"
    at: float = field(compare=False)
    """`time.monotonic()` of its arrival, seconds."""


Event = Joined | Left | Arrived


@dataclass(frozen=True, slots=True)
class Piece:
    """Bytes of a payload from `offset` on: a uint8 tensor, good until the next piece is asked for."""

    offset: int
    data: Tensor


END_OF_STREAM = Piece(0, torch.empty(0, dtype=torch.uint8))
"""What a stream gives after its last piece."""


class Stream(Protocol):
    """A payload, piece by piece in order. Each piece begins at a multiple of `message.ALIGNMENT` bytes."""

    def next(self, timeout: float | None = None) -> Piece:
        """The next piece, or `END_OF_STREAM`.

        Raises:
            PeerLost, ProtocolError, ValueError, WaitTimeout, Aborted: see `Offer.fetch`; after a `WaitTimeout` it may be
                called again.
        """


class Offer(ABC):
    """A message that a peer wants to hand over. End it by `accept()` or `refuse()`: the sender waits for that."""

    header: Header

    @abstractmethod
    def prefetch(self) -> None:
        """Start the transfer in the background. Does nothing if it has started."""

    @abstractmethod
    def fetch(self, timeout: float | None = None) -> Message:
        """Transfer the payload and return the message; its tensors are views into one buffer.

        They keep their values as long as they, or the message, are referred to, whatever becomes of the sender; read
        them, never write to them.

        Raises:
            PeerLost: the sender went away before the payload was complete.
            ProtocolError: the payload is corrupt (its checksum differs).
            ValueError: the offer was accepted or refused before it was fetched.
            WaitTimeout, Aborted: see the module.
        """

    @abstractmethod
    def stream(self) -> Stream:
        """Begin to transfer the payload in pieces, of which only a few are held here at a time, however large it is.

        May be called again until the offer is accepted or refused: so long its sender keeps it.
        """

    @abstractmethod
    def accept(self) -> None:
        """Tell the sender that its message was taken. The first of `accept()` and `refuse()` counts."""

    @abstractmethod
    def refuse(self, reason: str) -> None:
        """Tell the sender that its message was not taken and why; allowed before and after `fetch`."""

    def take(self, timeout: float | None = None) -> Message:
        """Fetch and accept in one step."""
        message = self.fetch(timeout)
        self.accept()
        return message


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a message at one end: `accepted`, `refused` or `lost`, with the reason of the latter two."""

    state: str
    reason: str = ""

    @property
    def accepted(self) -> bool:
        """Whether the end took the message."""
        return self.state == "accepted"


class Delivery(ABC):
    """A message on its way to one or more ends."""

    @abstractmethod
    def done(self) -> bool:
        """Whether every end has answered."""

    @abstractmethod
    def wait(self, timeout: float | None = None) -> Mapping[str, Outcome]:
        """Block until each end took the message, refused it or was lost.

        Raises:
            WaitTimeout: names the ends that have not answered.
            Aborted: see the module.
        """


class Channel(ABC):
    """One worker's side of a channel."""

    spec: ChannelSpec

    @property
    @abstractmethod
    def joined(self) -> frozenset[str]:
        """The ends connected now."""

    @abstractmethod
    def send(self, message: Message, to: Iterable[str]) -> Delivery:
        """Offer `message` to the ends `to`; returns at once.

        The payload is packed once into an immutable buffer, whatever the number of ends. Messages from one
        worker to one end arrive in the order sent. An end that has not joined yet is waited for; one that left is `lost`.

        A packed message must not be written to once it was sent: an end may read the same memory for as long as it
        likes. Where memory is used again (`allocate`), that is seen to.

        Raises:
            ValueError: an end that is not on this channel, or a message that was released.
            ProtocolError: the message is beyond the limits of this endpoint.
            Aborted: see the module.
        """

    def allocate(self, kind: str, round: int, specs: Specs, *, scalars: Mapping[str, Scalar] | None = None) -> Message:
        """A packed message for the caller to fill and to send on this channel, where it need not be copied again.

        Its tensors are uninitialised. Call it when the ends have joined: where they are decides on the kind of memory.
        """
        return Message.allocate(kind, round, specs, scalars=scalars)

    @abstractmethod
    def receive(self, timeout: float | None = None) -> Event:
        """The next event of this channel, in order of arrival."""

    @abstractmethod
    def decline(self, reason: str) -> None:
        """Refuse what is offered on this channel and not received yet, and whatever comes from now on."""

    @abstractmethod
    def wait_joined(self, ends: Collection[str] | None = None, timeout: float | None = None) -> None:
        """Block until all of `ends` (default: all of the channel) have joined. Consumes no event.

        One that came and said goodbye has joined.

        Raises:
            WaitTimeout: names the ends that are missing.
            PeerLost: one of them was forgotten.
            Refused: one of them would not have us.
            AddressError: one of them could not be reached where it should listen.
        """


class Gate(Protocol):
    """What surrounds each blocking wait: lets one worker at a time run when all are threads of one process."""

    def released(self) -> AbstractContextManager[None]:
        """A context in which the caller waits and others may run."""


class Endpoint(ABC):
    """A worker's place on the network: opens channels and waits on several of them at once."""

    name: str
    refused: int = 0
    """How many connections and messages of strangers or beyond the rules were refused."""

    @property
    @abstractmethod
    def address(self) -> str | None:
        """`host:port` that others dial; None where nothing listens."""

    @abstractmethod
    def open(self, spec: ChannelSpec) -> Channel:
        """Open a channel. Peers are connected as soon as both sides have it open and addresses are known."""

    @abstractmethod
    def connect(self, addresses: Mapping[str, str]) -> None:
        """Learn where peers listen (worker name -> `host:port`); may be called again as addresses change.

        A worker whose address changed was started anew: the connection with its predecessor is dropped, the new one is
        dialled, and what `forget` said of it holds no longer. An address that is known changes nothing.
        """

    @abstractmethod
    def forget(self, worker: str, reason: str) -> None:
        """Give a worker up: it will not come back. Safe from any thread; returns before all of it has happened.

        Every channel with it gets one final `Left`, deliveries to it are `lost`, waits for it to join raise `PeerLost`,
        nobody dials it any more, and it is refused if it dials.
        """

    @abstractmethod
    def receive(self, channels: Sequence[Channel], timeout: float | None = None) -> Event:
        """The next event on any of `channels`."""

    @abstractmethod
    def attend(self, channels: Sequence[Channel], delivery: Delivery) -> Event | None:
        """The next event on any of `channels`, or None once every end of `delivery` has answered.

        For those who must not be deaf while they wait for an answer: whoever is to give it may wait for them.
        """

    @abstractmethod
    def abort(self, reason: str) -> None:
        """End every present and future wait of this endpoint with `Aborted(reason)`; safe from any thread."""

    @abstractmethod
    def close(self, timeout: float = 5.0) -> None:
        """Say goodbye on every channel, end the connections and free the port. Idempotent.

        After `abort()` peers see it as a break, not as a goodbye. `timeout` is in seconds.
        """

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if error is not None:
            self.abort(f"{self.name} failed: {error!r}")
        self.close()
