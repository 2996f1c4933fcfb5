"""The other side of a stream: mostly keeps to the rules, so that it gets far, and then does not."""

import asyncio
import zlib
from collections import deque
from collections.abc import Callable, Sequence
from random import Random

import grpc.aio

from tests.transports.lone_link import ACTIONS, LIMITS, LoneLink, header_of, message_bytes
from transports import wire_pb2
from transports.base import Limits
from transports.grpc_channel import frames

_PATTERN = bytes(at % 251 for at in range(2**15))
_SIZES = (0, 1, 100, 4096, LIMITS.max_message_bytes)


def payload_of(number: int, start: int, stop: int) -> bytes:
    """Bytes of the payload of the `number`-th offer of a peer; defined somewhat beyond its end."""
    return _PATTERN[number + start : number + stop]


class Peer:
    """The stream of a link: what it says is chosen by `dice` when the link reads.

    Args:
        dice: chooses.
        noise: what it says where it does not keep to the rules.
        act: does one of `ACTIONS`.
    """

    def __init__(self, dice: Random, noise: Sequence[bytes], act: Callable[[str], None]) -> None:
        self._dice = dice
        self._noise = noise
        self._act = act
        self._steps = dice.randrange(150)
        self.honest = True
        """Whether it has kept the order of what it says so far; else nobody can know what is part of what."""
        self.wrong: set[int] = set()
        """Offers with a payload that is not that of `payload_of`, without a checksum to show it."""
        self._sizes: dict[int, int] = {}
        self._wanted: dict[int, deque[tuple[int, int]]] = {}
        self._chunks: list[bytes] = []
        self._offered: set[int] = set()
        self._answered: set[int] = set()
        self._asked: dict[int, deque[tuple[int, int]]] = {}
        self._run: wire_pb2.Run | None = None
        self._sum = 0

    async def write(self, message: bytes) -> None:
        """Hear what the link says.

        Raises:
            AssertionError: it gave another part of its message than it was asked for.
        """
        if self._run is not None:
            self._hear_chunk(self._run, message)
            return
        frame = frames.parse_frame(message, Limits())
        match frame.WhichOneof("body"):
            case "fetch":
                size = self._sizes.get(frame.fetch.id, 0)
                part = frame.fetch.offset, frame.fetch.offset + (frame.fetch.bytes or size)
                self._wanted.setdefault(frame.fetch.id, deque()).append(part)
            case "offer":
                self._offered.add(frame.offer.id)
            case "run":
                self._run, self._sum = frame.run, 0
            case "accept" | "refuse" if self._dice.random() < 0.5:
                self._wanted.pop(getattr(frame, frame.WhichOneof("body") or "").id, None)

    def _hear_chunk(self, run: wire_pb2.Run, chunk: bytes) -> None:
        self._sum = zlib.crc32(chunk, self._sum)
        run.chunks -= 1
        if not run.chunks:
            self._run = None
            assert self._sum == run.checksum
        if not self.honest or run.id in self._answered:
            return
        start, stop = self._asked[run.id].popleft()
        assert chunk == message_bytes()[start : start + len(chunk)]
        assert start + len(chunk) <= stop
        if start + len(chunk) < stop:
            self._asked[run.id].appendleft((start + len(chunk), stop))

    async def read(self) -> object:
        """What comes next."""
        while self._steps:
            self._steps -= 1
            # Let the link write what came of the last step.
            for _ in range(4):
                await asyncio.sleep(0)
            said = self._say()
            if said is not None:
                return said
        return grpc.aio.EOF

    def _say(self) -> bytes | None:
        dice, amid, said = self._dice, bool(self._chunks), None
        if amid and dice.random() < 0.95:
            return self._chunks.pop(0)
        match dice.choice(["offer", "offer", "act", "act", "act", "act", "run", "run", "run", "run", "answer", "anything"]):
            case "offer":
                said = self._offer()
            case "run" if self._wanted and not amid:
                said = self._begin_run()
            case "answer" if self._offered:
                said = self._answer()
            case "anything" if dice.random() < 0.2:
                self.honest, said = False, dice.choice(self._noise)
            case _:
                self._act(dice.choice(ACTIONS))
        # Whatever is said among the chunks of a run is taken for one of them.
        self.honest &= said is None or not amid
        return said

    def _offer(self) -> bytes:
        number = len(self._sizes) + 1
        nbytes = self._sizes[number] = self._dice.choice(_SIZES)
        offer = wire_pb2.Offer(id=number, header=header_of(nbytes))
        if self._dice.random() < 0.25:
            offer.payload = payload_of(number, 0, nbytes)
        if self._dice.random() < 0.5:
            offer.checksum = zlib.crc32(offer.payload, zlib.crc32(offer.header)) ^ (self._dice.random() < 0.05)
        return wire_pb2.Frame(offer=offer).SerializeToString()

    def _begin_run(self) -> bytes:
        dice = self._dice
        number = dice.choice(sorted(self._wanted))
        start, stop = self._wanted[number].popleft()
        sizes = [dice.randint(1, 4000) for _ in range(dice.randint(1, 3))]
        ends = [start + sum(sizes[: at + 1]) for at in range(len(sizes))]
        if dice.random() < 0.9:
            ends = sorted({min(stop, end) for end in ends})
        self._chunks = [payload_of(number, *part) for part in zip([start, *ends], ends, strict=False)]
        if ends[-1] < stop:
            self._wanted[number].appendleft((ends[-1], stop))
        self._wanted = {each: parts for each, parts in self._wanted.items() if parts}
        run = wire_pb2.Run(id=number, chunks=len(self._chunks))
        if dice.random() < 0.6:
            run.checksum = zlib.crc32(b"".join(self._chunks))
        if self._chunks[-1] and dice.random() < 0.1:
            spoiled = bytearray(self._chunks[-1])
            spoiled[0] ^= 1
            self._chunks[-1] = bytes(spoiled)
            if not run.HasField("checksum"):
                self.wrong.add(number)
        return wire_pb2.Frame(run=run).SerializeToString()

    def _answer(self) -> bytes:
        number = self._dice.choice(sorted(self._offered))
        size = len(message_bytes())
        match self._dice.choice(["whole", "part", "part", "accept", "refuse"]):
            case "whole":
                self._asked.setdefault(number, deque()).append((0, size))
                return frames.fetch(number)
            case "part":
                start = self._dice.randrange(size)
                stop = self._dice.randint(start + 1, size + (self._dice.random() < 0.1))
                self._asked.setdefault(number, deque()).append((start, stop))
                return frames.fetch(number, start, stop - start)
            case "accept":
                said = wire_pb2.Frame(accept=wire_pb2.Accept(id=number))
            case _:
                said = wire_pb2.Frame(refuse=wire_pb2.Refuse(id=number, reason="\x07 no"))
        self._answered.add(number)
        if self._dice.random() < 0.9:
            self._offered.discard(number)
        return said.SerializeToString()


def converse(dice: Random, noise: Sequence[bytes]) -> LoneLink:
    """Let a worker and such a peer talk until the link between them is over.

    Raises:
        AssertionError: see `LoneLink.play` and `Peer.write`, or a piece is not what the peer offered.
    """
    peer = Peer(dice, noise, lambda name: getattr(worker, name)())
    worker = LoneLink(peer)
    worker.play()
    if peer.honest:
        for (offer, _), taken in zip(worker.streamed, worker.taken, strict=True):
            assert offer.number in peer.wrong or taken == payload_of(offer.number, 0, len(taken))
    return worker
