"""Messages from one end over one stream: offered to us, put together when they are fetched. Trusts no byte of it."""

import zlib
from collections import OrderedDict, deque
from collections.abc import Callable

from typing_extensions import override

from transports import wire_pb2
from transports.base import END_OF_STREAM, Outcome, Piece, Stream
from transports.core import CoreChannel
from transports.errors import ProtocolError
from transports.grpc_channel import frames
from transports.grpc_channel.stream import Owner
from transports.grpc_channel.transfer import Incoming, Run
from transports.header import parse_header
from transports.message import Header, Payload
from transports.offers import CoreOffer
from transports.pieces import PIECE_BYTES, FetchedStream, PayloadStream
from transports.shared_memory.segment import Handle

_MAX_DRAINING = 1024
_PARTS_AHEAD = 3
"""Parts of a payload on their way or waiting at once."""


class GrpcOffer(CoreOffer):
    """An offer whose payload is still at the sender, unless it was small."""

    def __init__(self, header: Header, inbox: "Inbox", wire: wire_pb2.Offer) -> None:
        super().__init__(header, inbox.channel, inbox.end)
        self.number: int = wire.id
        self.nbytes = len(wire.header) + len(wire.payload)
        """Bytes that came with the offer."""
        self.inline: bytes | None = wire.payload if wire.HasField("payload") or not header.nbytes else None
        self.expected: deque[tuple[Incoming, Callable[[Payload], None]]] = deque()
        """The payload, or parts of it, that was asked for and is not whole yet, in order, and who takes it."""
        self._segment = _handle(wire.segment) if wire.HasField("segment") else None
        self._inbox = inbox

    @override
    def stream(self) -> Stream:
        if self.inline is not None or self.transferred:
            return FetchedStream(self.fetch)
        payload = self._mapped()
        return PartStream(self, self._inbox) if payload is None else PayloadStream(payload)

    def _mapped(self) -> Payload | None:
        return None if self._segment is None else self._inbox.owner.memory.open(self._segment, self.header.nbytes, self.end)

    @override
    def _start(self) -> None:
        payload = self._mapped()
        if payload is not None:
            payload.expect(0, self.header.nbytes)
            self.complete(payload)
        elif not self._inbox.owner.loop.post(self._inbox.fetch, self):
            self.lose("the endpoint is closed")

    @override
    def _answer(self, outcome: Outcome) -> None:
        # Without a loop there is no stream, and the sender has learnt that we are gone.
        self._inbox.owner.loop.post(self._inbox.answer, self, outcome)


class PartStream:
    """A payload that is asked for in parts, a few ahead of the one in use, each checked before it is given out."""

    def __init__(self, offer: GrpcOffer, inbox: "Inbox") -> None:
        self._offer = offer
        self._inbox = inbox
        self._asked = self._given = 0
        self._ready: deque[Payload] = deque()
        self._used: Payload | None = None
        for _ in range(_PARTS_AHEAD):
            self._ask()

    def next(self, timeout: float | None = None) -> Piece:
        """See `transports.base.Stream`."""
        if self._used is not None:
            self._used.release()
            self._used = None
            self._ask()
        if self._given == self._offer.header.nbytes:
            return END_OF_STREAM
        payload = self._used = self._offer.await_part(self._ready, timeout)
        piece = Piece(self._given, payload.buffer)
        self._given += payload.buffer.numel()
        return piece

    def arrived(self, payload: Payload) -> None:
        """Take the next part; called by the loop's thread."""
        with self._inbox.channel.mailbox.changing():
            self._ready.append(payload)

    def _ask(self) -> None:
        offset, nbytes = self._asked, min(PIECE_BYTES, self._offer.header.nbytes - self._asked)
        if nbytes:
            self._asked += nbytes
            if not self._inbox.owner.loop.post(self._inbox.fetch_part, self._offer, self, offset, nbytes):
                self._offer.lose("the endpoint is closed")


class Inbox:
    """What `end` offered and we have not answered.

    Args:
        owner: the endpoint.
        channel: where offers go.
        end: the worker at the other side.
        put: takes a control frame to send.
        shared: whether `end` and we can share memory.
    """

    def __init__(self, owner: Owner, channel: CoreChannel, end: str, put: Callable[[bytes], None], *, shared: bool) -> None:
        self.owner = owner
        self.channel = channel
        self.end = end
        self.run: Run | None = None
        """Where the next bytes belong if they are no control frame."""
        self._put = put
        self._shared = shared
        self._lost: str | None = None
        self._offers: dict[int, GrpcOffer] = {}
        self._offered_bytes = 0
        self._newest = 0
        self._draining: OrderedDict[int, int] = OrderedDict()

    def take_offer(self, wire: wire_pb2.Offer) -> None:
        """Pass an offer on, or refuse it if it is a bad one.

        Raises:
            ProtocolError: its number was seen before, or its bytes are not those that were sent. Nobody here will ever hear
                of such a message; with the connection gone, its sender can send it again.
        """
        if wire.id <= self._newest:
            raise ProtocolError(f"offer {wire.id} after offer {self._newest}")
        self._newest = wire.id
        if wire.HasField("checksum") and zlib.crc32(wire.payload, zlib.crc32(wire.header)) != wire.checksum:
            raise ProtocolError(f"checksum of offer {wire.id} differs")
        try:
            header = self._check(wire)
        except ProtocolError as error:
            self.owner.count_refused(f"a message of {self.end} on {self.channel}: {error}")
            self._put(frames.answer(wire.id, Outcome("refused", str(error))))
            return
        offer = self._offers[wire.id] = GrpcOffer(header, self, wire)
        self._offered_bytes += offer.nbytes
        self.channel.note_arrived(offer)

    def _check(self, wire: wire_pb2.Offer) -> Header:
        limits = self.owner.limits
        if len(self._offers) >= limits.max_offers:
            raise ProtocolError(f"{len(self._offers)} offers wait for an answer, as many as max_offers allows")
        if self._offers and self._offered_bytes + len(wire.header) + len(wire.payload) > limits.max_offered_bytes:
            raise ProtocolError(f"offers that wait for an answer would be over max_offered_bytes = {limits.max_offered_bytes}")
        header = parse_header(wire.header, limits)
        if header.sender != self.end:
            raise ProtocolError(f"{self.end} sent a message in the name of {header.sender!r}")
        if wire.HasField("payload") and len(wire.payload) != header.nbytes:
            raise ProtocolError(f"payload of {len(wire.payload)} bytes where the header announced {header.nbytes}")
        if wire.HasField("segment") and (not self._shared or not header.nbytes or wire.HasField("payload")):
            raise ProtocolError(f"{self.end} offered shared memory where none can be used")
        return header

    def fetch(self, offer: GrpcOffer) -> None:
        """Begin the transfer of an offered payload."""
        if self._lost is not None or offer.number not in self._offers:
            offer.lose(self._lost or "it was answered before it was fetched")
            return
        try:
            incoming = Incoming(self.owner.pool.take(offer.header.nbytes))
        except RuntimeError as error:  # what torch raises where there is no memory
            self._reject(offer, f"there is no memory for {offer.header.nbytes} bytes: {error}")
            return
        if offer.inline is not None:
            incoming.write(offer.inline)
            offer.inline = None
            offer.complete(incoming.payload)
        else:
            offer.expected.append((incoming, offer.complete))
            self._put(frames.fetch(offer.number))

    def fetch_part(self, offer: GrpcOffer, stream: "PartStream", offset: int, nbytes: int) -> None:
        """Begin the transfer of a part of an offered payload."""
        if self._lost is not None or offer.number not in self._offers:
            offer.lose(self._lost or "it was answered before it was fetched")
            return
        offer.expected.append((Incoming(self.owner.parts.take(nbytes)), stream.arrived))
        self._put(frames.fetch(offer.number, offset, nbytes))

    def _reject(self, offer: GrpcOffer, why: str) -> None:
        self.owner.count_refused(f"{offer}: {why}")
        offer.fail(ProtocolError(f"{offer}: {why}"))
        offer.refuse(why)

    def answer(self, offer: GrpcOffer, outcome: Outcome) -> None:
        """Tell the sender what became of its message."""
        if self._offers.pop(offer.number, None) is None or self._lost is not None:
            return
        self._offered_bytes -= offer.nbytes
        missing = sum(incoming.missing for incoming, _ in offer.expected)
        if self.run is not None and self.run.number == offer.number:
            self.run.drop(missing)
        self._drain(offer.number, missing)
        self._put(frames.answer(offer.number, outcome))

    def take_run(self, wire: wire_pb2.Run) -> None:
        """The next bytes are part of a payload.

        Raises:
            ProtocolError: nobody waits for them.
        """
        offer = self._offers.get(wire.id)
        into = offer.expected[0][0] if offer is not None and offer.expected else None
        if offer is not None and into is None:
            raise ProtocolError(f"payload of offer {wire.id}, which nobody fetched")
        if offer is None and wire.id not in self._draining:
            raise ProtocolError(f"payload of offer {wire.id}, which nobody waits for")
        self.run = Run(wire, into, self._draining.get(wire.id, 0))

    def take_chunk(self, run: Run, chunk: bytes) -> None:
        """Take the next bytes of `run`.

        Raises:
            ProtocolError: they are none, or more than the header announced.
        """
        run.write(chunk)
        if not run.over:
            return
        self.run = None
        offer = self._offers.get(run.number)
        if offer is None or run.into is None:
            self._drain(run.number, run.missing)
        elif run.corrupt:
            self._reject(offer, "corrupt, its checksum differs")
        elif run.into.complete:
            incoming, take = offer.expected.popleft()
            take(incoming.payload)

    def _drain(self, number: int, nbytes: int) -> None:
        """Note how much of a payload that is not wanted any more may still come."""
        self._draining.pop(number, None)
        if nbytes:
            self._draining[number] = nbytes
        if len(self._draining) > _MAX_DRAINING:
            self._draining.popitem(last=False)

    def lose(self, reason: str) -> None:
        """The stream is over: what was not transferred will not be."""
        self._lost = reason
        for offer in self._offers.values():
            offer.lose(reason)
        self._offers.clear()


def _handle(wire: wire_pb2.Segment) -> Handle:
    return Handle(wire.pid, wire.descriptor, wire.device, wire.inode, wire.filling)
