"""One stream between two workers: offers, payloads and answers in both directions. Lives in the loop's thread."""

import asyncio
import logging
import zlib
from collections import deque
from collections.abc import Callable

import grpc.aio

from transports import wire_pb2
from transports.base import Outcome
from transports.core import CoreChannel, CoreOffer
from transports.errors import ProtocolError
from transports.grpc_channel import frames
from transports.grpc_channel.stream import STREAM_ERRORS, Owner, Stream
from transports.grpc_channel.transfer import Incoming, Outgoing, Run
from transports.header import parse_header
from transports.message import Header
from transports.shared_memory.segment import Handle

logger = logging.getLogger(__name__)

_LAST_WRITE_TIMEOUT = 2.0


def _handle(wire: wire_pb2.Segment) -> Handle:
    return Handle(wire.pid, wire.descriptor, wire.device, wire.inode, wire.filling)


class GrpcOffer(CoreOffer):
    """An offer whose payload is still at the sender, unless it was small."""

    def __init__(self, header: Header, link: "Link", wire: wire_pb2.Offer) -> None:
        super().__init__(header, link.channel, link.end)
        self.number: int = wire.id
        self.inline: bytes | None = wire.payload if wire.HasField("payload") or not header.nbytes else None
        self.incoming: Incoming | None = None
        self._segment = _handle(wire.segment) if wire.HasField("segment") else None
        self._link = link

    def _start(self) -> None:
        payload = None
        if self._segment is not None:
            payload = self._link.owner.memory.open(self._segment, self.header.nbytes, self.end)
        if payload is not None:
            self.complete(payload)
        elif not self._link.owner.loop.post(self._link.fetch, self):
            self.lose("the endpoint is closed")

    def _answer(self, outcome: Outcome) -> None:
        # Without a loop there is no stream, and the sender has learnt that we are gone.
        self._link.owner.loop.post(self._link.answer, self, outcome)


class Link:
    """The stream to `end` on `channel`.

    Args:
        owner: the endpoint.
        channel: where events go.
        end: the worker at the other side.
        stream: connected and admitted.
        ended: called when the link is over.
        checked: whether payloads sent carry checksums.
        shared: whether `end` and we can share memory.
    """

    def __init__(
        self,
        owner: Owner,
        channel: CoreChannel,
        end: str,
        stream: Stream,
        ended: Callable[["Link"], None],
        *,
        checked: bool,
        shared: bool,
    ) -> None:
        self.shared = shared
        self.owner = owner
        self.channel = channel
        self.end = end
        self.reason = "its connection broke"
        self.clean = False
        self.violation: str | None = None
        self.over = asyncio.Event()
        self._stream = stream
        self._ended = ended
        self._checked = checked
        self._work = asyncio.Event()
        self._control: deque[bytes] = deque()
        self._bye: bytes | None = None
        self._sending: deque[tuple[Outgoing, int]] = deque()
        self._unanswered: dict[int, Outgoing] = {}
        self._fetched: set[int] = set()
        self._offers: dict[int, GrpcOffer] = {}
        self._newest_offer = 0
        self._run: Run | None = None

    def put(self, frame: bytes) -> None:
        """Send a control frame as soon as possible, in order."""
        self._control.append(frame)
        self._work.set()

    def offer(self, outgoing: Outgoing) -> None:
        """Offer a message."""
        if self.over.is_set():
            outgoing.delivery.settle(self.end, Outcome("lost", self.reason))
            return
        self._unanswered[outgoing.number] = outgoing
        self.put(outgoing.offer(checked=self._checked, shared=self.shared))

    def leave(self, reason: str, *, clean: bool) -> None:
        """Say goodbye after the control frames that wait; `over` is set when the peer has heard it."""
        self._bye = frames.bye(reason, clean=clean)
        self._work.set()

    def fetch(self, offer: GrpcOffer) -> None:
        """Begin the transfer of an offered payload."""
        if self.over.is_set() or offer.number not in self._offers:
            offer.lose(self.reason)
            return
        offer.incoming = Incoming(self.owner.pool.take(offer.header.nbytes))
        if offer.inline is not None:
            offer.incoming.write(offer.inline)
            offer.inline = None
            self._finish(offer, offer.incoming)
        else:
            self.put(frames.fetch(offer.number))

    def _finish(self, offer: GrpcOffer, incoming: Incoming) -> None:
        if not incoming.complete:
            raise ProtocolError(f"{offer} came without all of its {offer.header.nbytes} bytes")
        offer.incoming = None
        offer.complete(incoming.payload)

    def answer(self, offer: GrpcOffer, outcome: Outcome) -> None:
        """Tell the sender what became of its message."""
        if self._offers.pop(offer.number, None) is not None and not self.over.is_set():
            self.put(frames.answer(offer.number, outcome))

    async def run(self) -> None:
        """Move messages until one side leaves or the stream breaks; raises nothing but cancellation."""
        reader, writer = asyncio.create_task(self._read()), asyncio.create_task(self._write())
        try:
            await asyncio.wait({reader, writer}, return_when=asyncio.FIRST_COMPLETED)
            if not writer.done() or writer.exception() is None:
                await asyncio.wait({reader})
                self._note_error(reader.exception())
            else:
                self._note_error(writer.exception())
            self._end()
            # gRPC cannot end a stream properly while one of its writes is under way.
            await asyncio.wait({writer}, timeout=_LAST_WRITE_TIMEOUT)
        finally:
            for task in (reader, writer):
                task.cancel()
            await asyncio.gather(reader, writer, return_exceptions=True)
            self._end()

    def _note_error(self, error: BaseException | None) -> None:
        if isinstance(error, ProtocolError):
            self.violation = self.reason = f"broke the protocol: {error}"
            self.owner.count_refused(f"{self.end} on {self.channel}, which {self.violation}")
        elif isinstance(error, grpc.aio.AioRpcError):
            self.reason = f"its connection broke: {error.details()}"
        elif error is not None and not isinstance(error, STREAM_ERRORS):
            self.reason = f"failed here: {error!r}"
            logger.error("link to %s on %s", self.end, self.channel, exc_info=error)

    def _end(self) -> None:
        if self.over.is_set():
            return
        self.over.set()
        self._work.set()
        for outgoing in self._unanswered.values():
            outgoing.delivery.settle(self.end, Outcome("lost", self.reason))
        for offer in self._offers.values():
            offer.lose(self.reason)
        self._unanswered.clear()
        self._offers.clear()
        self._ended(self)

    async def _write(self) -> None:
        while True:
            await self._work.wait()
            if self.over.is_set():
                return
            if self._control:
                await self._stream.write(self._control.popleft())
            elif self._bye is not None:
                await self._stream.write(self._bye)
                return
            elif self._sending:
                await self._write_run(*self._sending.popleft())
            else:
                self._work.clear()

    async def _write_run(self, outgoing: Outgoing, index: int) -> None:
        if outgoing.number not in self._unanswered:
            return
        frame, chunks = outgoing.run(index, checked=self._checked)
        if index + 1 < outgoing.runs:
            self._sending.appendleft((outgoing, index + 1))
        await self._stream.write(frame)
        for chunk in chunks:
            if self.over.is_set():
                return
            await self._stream.write(chunk)

    async def _read(self) -> None:
        while True:
            data = await self._stream.read()
            if not isinstance(data, bytes):
                return
            if self._run is not None:
                self._take_chunk(self._run, data)
                continue
            frame = frames.parse_frame(data)
            if frame.HasField("bye"):
                self.reason, self.clean = frame.bye.reason, frame.bye.clean
                return
            self._take_frame(frame)

    def _take_frame(self, frame: wire_pb2.Frame) -> None:
        match frame.WhichOneof("body"):
            case "offer":
                self._take_offer(frame.offer)
            case "fetch":
                outgoing = self._known(frame.fetch.id)
                if frame.fetch.id in self._fetched or not outgoing.runs:
                    raise ProtocolError(f"offer {outgoing.number} cannot be fetched twice, nor without a payload")
                self._fetched.add(frame.fetch.id)
                self._sending.append((outgoing, 0))
                self._work.set()
            case "run":
                if frame.run.id > self._newest_offer:
                    raise ProtocolError(f"payload of offer {frame.run.id}, which was not made")
                offer = self._offers.get(frame.run.id)
                if offer is not None and offer.incoming is None:
                    raise ProtocolError(f"payload of offer {frame.run.id}, which nobody fetched")
                self._run = Run(frame.run, offer.incoming if offer is not None else None)
            case "accept":
                self._settle(frame.accept.id, Outcome("accepted"))
            case "refuse":
                self._settle(frame.refuse.id, Outcome("refused", frame.refuse.reason))
            case other:
                raise ProtocolError(f"a frame {other!r} where none is due")

    def _known(self, number: int) -> Outgoing:
        if number not in self._unanswered:
            raise ProtocolError(f"an answer to offer {number}, which waits for none")
        return self._unanswered[number]

    def _settle(self, number: int, outcome: Outcome) -> None:
        delivery = self._known(number).delivery
        # First, because whoever waits for the answer may want to use the memory of the message again.
        del self._unanswered[number]
        self._fetched.discard(number)
        delivery.settle(self.end, outcome)

    def _take_offer(self, wire: wire_pb2.Offer) -> None:
        if wire.id <= self._newest_offer:
            raise ProtocolError(f"offer {wire.id} after offer {self._newest_offer}")
        self._newest_offer = wire.id
        try:
            header = self._check_offer(wire)
        except ProtocolError as error:
            self.owner.count_refused(f"a message of {self.end} on {self.channel}: {error}")
            self.put(frames.answer(wire.id, Outcome("refused", str(error))))
            return
        offer = self._offers[wire.id] = GrpcOffer(header, self, wire)
        self.channel.note_arrived(offer)

    def _check_offer(self, wire: wire_pb2.Offer) -> Header:
        if wire.HasField("checksum") and zlib.crc32(wire.payload, zlib.crc32(wire.header)) != wire.checksum:
            raise ProtocolError("checksum of the offer differs")
        header = parse_header(wire.header, self.owner.limits)
        if header.sender != self.end:
            raise ProtocolError(f"{self.end} sent a message in the name of {header.sender!r}")
        if wire.HasField("payload") and len(wire.payload) != header.nbytes:
            raise ProtocolError(f"payload of {len(wire.payload)} bytes where the header announced {header.nbytes}")
        if wire.HasField("segment") and (not self.shared or not header.nbytes or wire.HasField("payload")):
            raise ProtocolError(f"{self.end} offered shared memory where none can be used")
        return header

    def _take_chunk(self, run: Run, chunk: bytes) -> None:
        run.write(chunk)
        if not run.over:
            return
        self._run = None
        offer = self._offers.get(run.number)
        if offer is None or run.into is None:
            return
        if run.corrupt:
            error = ProtocolError(f"{offer} is corrupt: its checksum differs")
            self.owner.count_refused(str(error))
            offer.fail(error)
            offer.refuse(str(error))
        elif run.into.complete:
            self._finish(offer, run.into)
