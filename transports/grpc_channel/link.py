"""One stream between two workers: reads and writes it, and says how it ended. Lives in the loop's thread."""

import asyncio
import logging
from collections import deque
from collections.abc import Callable

import grpc.aio

from transports import wire_pb2
from transports.base import Outcome
from transports.core import CoreChannel
from transports.errors import ProtocolError
from transports.grpc_channel import frames
from transports.grpc_channel.inbox import Inbox
from transports.grpc_channel.outbox import Outbox
from transports.grpc_channel.stream import STREAM_ERRORS, Instance, Owner, Stream
from transports.grpc_channel.transfer import Outgoing

logger = logging.getLogger(__name__)

_LAST_WRITE_TIMEOUT = 2.0
_MAX_QUEUED_ANSWERS = 1000


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
        instance: which process `end` says it is, where it dialled.
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
        instance: Instance | None = None,
    ) -> None:
        self.owner = owner
        self.channel = channel
        self.end = end
        self.shared = shared
        self.instance = instance
        self.reason = "its connection broke"
        self.clean = False
        self.final = False
        """Whether the end will not come back."""
        self.cut_off = False
        self.violation: str | None = None
        self.over = asyncio.Event()
        self.outbox = Outbox(end, self.put, self._wake, checked=checked, shared=shared)
        self.inbox = Inbox(owner, channel, end, self.put, shared=shared)
        self._stream = stream
        self._ended = ended
        self._work = asyncio.Event()
        self._control: deque[bytes] = deque()
        self._bye: bytes | None = None
        self._reader: asyncio.Task[None] | None = None
        self._most_queued = 2 * owner.limits.max_offers + _MAX_QUEUED_ANSWERS

    @property
    def leaving(self) -> bool:
        """Whether this side says goodbye."""
        return self._bye is not None

    def put(self, frame: bytes) -> None:
        """Send a control frame as soon as possible, in order."""
        self._control.append(frame)
        self._work.set()

    def _wake(self) -> None:
        self._work.set()

    def offer(self, outgoing: Outgoing) -> None:
        """Offer a message."""
        if self.over.is_set():
            outgoing.delivery.settle(self.end, Outcome("lost", self.reason))
        else:
            self.outbox.offer(outgoing)

    def leave(self, reason: str, *, clean: bool) -> None:
        """Say goodbye after the control frames that wait; `over` is set when the peer has heard it."""
        self._bye = frames.bye(reason, clean=clean)
        self._work.set()

    def cut(self, reason: str, *, final: bool = False) -> None:
        """End the link at once and without a goodbye. `final`: the end is not waited for."""
        if not self.over.is_set():
            self.reason, self.final, self.cut_off = reason, final, True
            self._end()
            if self._reader is not None:
                self._reader.cancel()

    async def run(self) -> None:
        """Move messages until one side leaves or the stream breaks; raises nothing but cancellation."""
        reader, writer = asyncio.create_task(self._read()), asyncio.create_task(self._write())
        self._reader = reader
        try:
            await asyncio.wait({reader, writer}, return_when=asyncio.FIRST_COMPLETED)
            if not self.over.is_set():
                if not writer.done() or writer.exception() is None:
                    await asyncio.wait({reader})
                    self._note_error(None if reader.cancelled() else reader.exception())
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
        self.outbox.lose(self.reason)
        self.inbox.lose(self.reason)
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
            elif self.outbox.sending:
                await self._write_run()
            else:
                self._work.clear()

    async def _write_run(self) -> None:
        run = self.outbox.next_run()
        if run is None:
            return
        frame, chunks = run
        await self._stream.write(frame)
        for chunk in chunks:
            if self.over.is_set():
                return
            await self._stream.write(chunk)

    async def _read(self) -> None:
        inbox = self.inbox
        while True:
            data = await self._stream.read()
            if not isinstance(data, bytes):
                return
            if inbox.run is not None:
                inbox.take_chunk(inbox.run, data)
                continue
            frame = frames.parse_frame(data, self.owner.limits)
            if frame.HasField("bye"):
                self.reason, self.clean = frames.readable(frame.bye.reason), frame.bye.clean
                self.final = self.clean
                return
            self._take_frame(frame)

    def _take_frame(self, frame: wire_pb2.Frame) -> None:
        match frame.WhichOneof("body"):
            case "offer":
                if len(self._control) > self.outbox.waiting + self._most_queued:
                    raise ProtocolError("it sends messages and does not read the answers")
                self.inbox.take_offer(frame.offer)
            case "fetch":
                self.outbox.take_fetch(frame.fetch.id, frame.fetch.offset, frame.fetch.bytes)
            case "run":
                self.inbox.take_run(frame.run)
            case "accept":
                self.outbox.take_answer(frame.accept.id, Outcome("accepted"))
            case "refuse":
                self.outbox.take_answer(frame.refuse.id, Outcome("refused", frames.readable(frame.refuse.reason)))
            case other:
                raise ProtocolError(f"a frame {other!r} where none is due")
