"""Payloads as chunks: cut once for all ends, put together in place."""

import zlib
from collections import OrderedDict
from dataclasses import asdict
from threading import Lock

import torch
from torch import Tensor

from transports import wire_pb2
from transports.errors import ProtocolError
from transports.grpc_channel.frames import INLINE_BYTES, MAX_CHUNK_BYTES, MAX_RUN_CHUNKS, RUN_CHUNKS
from transports.message import Message, Payload
from transports.offers import CoreDelivery
from transports.shared_memory.segment import SharedPayload

_KEPT_RUNS = 2
_KEPT_SUMS = 10_000
_KEPT_BUFFERS = 4
_REUSED_BYTES = 2**20


class BufferPool:
    """Host buffers of released messages, to be filled again: fresh memory costs a page fault for each 4 KiB."""

    def __init__(self) -> None:
        self._free: list[Tensor] = []
        self._lock = Lock()

    def take(self, nbytes: int) -> Payload:
        """A payload of `nbytes` bytes with any content."""
        with self._lock:
            found = next((buffer for buffer in self._free if buffer.numel() == nbytes), None)
            if found is not None:
                self._free = [buffer for buffer in self._free if buffer is not found]
        buffer = torch.empty(nbytes, dtype=torch.uint8) if found is None else found
        return Payload(buffer, self._give_back if nbytes >= _REUSED_BYTES else None)

    def _give_back(self, buffer: Tensor) -> None:
        with self._lock:
            self._free = [*self._free, buffer][-_KEPT_BUFFERS:]


def _view(buffer: Tensor) -> memoryview:
    view: memoryview = buffer.numpy().data
    return view


class Outgoing:
    """A packed message on its way to some ends; what is cut and summed for one end serves the others."""

    def __init__(self, header: bytes, message: Message, delivery: CoreDelivery, chunk_bytes: int) -> None:
        self.number = 0
        """Grows from message to message; set when it is offered."""
        self.delivery = delivery
        self._header = header
        self._payload = message.payload
        self._bytes = _view(message.buffer)
        self._chunk_bytes = chunk_bytes
        self._run_bytes = chunk_bytes * RUN_CHUNKS
        self._frames: dict[tuple[bool, bool], bytes] = {}
        self._runs: OrderedDict[tuple[int, int], list[bytes]] = OrderedDict()
        self._sums: OrderedDict[tuple[int, int], int] = OrderedDict()

    @property
    def nbytes(self) -> int:
        """Size of the payload."""
        return len(self._bytes)

    def offer(self, *, checked: bool, shared: bool) -> bytes:
        """The frame that offers it, with a checksum if `checked`, with the handle of its shared memory if `shared`."""
        key = checked, shared
        if key not in self._frames:
            offer = wire_pb2.Offer(id=self.number, header=self._header)
            if len(self._bytes) <= INLINE_BYTES:
                offer.payload = bytes(self._bytes)
            elif shared and isinstance(self._payload, SharedPayload):
                offer.segment.CopyFrom(wire_pb2.Segment(**asdict(self._payload.handle)))
            if checked:
                offer.checksum = zlib.crc32(offer.payload, zlib.crc32(self._header))
            self._frames[key] = wire_pb2.Frame(offer=offer).SerializeToString()
        return self._frames[key]

    def run(self, start: int, stop: int, *, checked: bool) -> tuple[int, bytes, list[bytes]]:
        """The next run of the bytes from `start` to `stop`: where it ends, the frame that announces it, and its chunks."""
        stop = min(start + self._run_bytes, stop)
        chunks = self._cut(start, stop)
        run = wire_pb2.Run(id=self.number, chunks=len(chunks))
        if checked:
            run.checksum = self._sum(start, stop)
        return stop, wire_pb2.Frame(run=run).SerializeToString(), chunks

    def _cut(self, start: int, stop: int) -> list[bytes]:
        key, size = (start, stop), self._chunk_bytes
        if key not in self._runs:
            self._runs[key] = [bytes(self._bytes[at : min(at + size, stop)]) for at in range(start, stop, size)]
            if len(self._runs) > _KEPT_RUNS:
                self._runs.popitem(last=False)
        return self._runs[key]

    def _sum(self, start: int, stop: int) -> int:
        key = start, stop
        if key not in self._sums:
            self._sums[key] = zlib.crc32(self._bytes[start:stop])
            if len(self._sums) > _KEPT_SUMS:
                self._sums.popitem(last=False)
        return self._sums[key]


class Incoming:
    """A payload that comes in, written straight to its place."""

    def __init__(self, payload: Payload) -> None:
        self.payload = payload
        self._bytes = _view(payload.buffer)
        self._end = 0

    @property
    def complete(self) -> bool:
        """Whether every byte is here."""
        return self._end == len(self._bytes)

    @property
    def missing(self) -> int:
        """Bytes that are not here yet."""
        return len(self._bytes) - self._end

    def write(self, chunk: bytes) -> None:
        """Append a chunk.

        Raises:
            ProtocolError: more bytes than the header announced.
        """
        stop = self._end + len(chunk)
        if stop > len(self._bytes):
            raise ProtocolError(f"a payload of at least {stop} bytes where the header announced {len(self._bytes)}")
        self._bytes[self._end : stop] = chunk
        self._end = stop


class Run:
    """The part of a stream that is raw chunks.

    Args:
        wire: the frame that announces it.
        into: where its bytes go; None for an offer that was answered meanwhile.
        unwanted: without `into`, how many bytes may still come.

    Raises:
        ProtocolError: no chunks, or too many.
    """

    def __init__(self, wire: wire_pb2.Run, into: Incoming | None, unwanted: int = 0) -> None:
        if not 0 < wire.chunks <= MAX_RUN_CHUNKS:
            raise ProtocolError(f"a run of {wire.chunks} chunks")
        self.number = wire.id
        self.into = into
        self._unwanted = unwanted
        self._left = wire.chunks
        self._expected = wire.checksum if wire.HasField("checksum") else None
        self._sum = 0

    def drop(self, unwanted: int) -> None:
        """The offer was answered in the middle of the run: nobody wants its bytes, of which so many may still come."""
        self.into = None
        self._unwanted = unwanted

    @property
    def over(self) -> bool:
        """Whether the next bytes are a control frame again."""
        return not self._left

    @property
    def missing(self) -> int:
        """Bytes of the payload that are still to come after this run."""
        return self._unwanted if self.into is None else self.into.missing

    @property
    def corrupt(self) -> bool:
        """Whether the run is over and its bytes are not those that were sent."""
        return self.over and self._expected is not None and self._sum != self._expected

    def write(self, chunk: bytes) -> None:
        """Take the next chunk.

        Raises:
            ProtocolError: it is empty, or goes beyond the bytes that the header announced.
        """
        if not 0 < len(chunk) <= MAX_CHUNK_BYTES:
            raise ProtocolError(f"a chunk of {len(chunk)} bytes")
        self._left -= 1
        if self.into is not None:
            self.into.write(chunk)
            if self._expected is not None:
                self._sum = zlib.crc32(chunk, self._sum)
            return
        self._unwanted -= len(chunk)
        if self._unwanted < 0:
            raise ProtocolError(f"{-self._unwanted} bytes more than the header announced")
