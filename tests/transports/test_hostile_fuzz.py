"""Everything that reads bytes of others, fed with anything: it ends in a value or in `ProtocolError`, within its limits."""

import asyncio
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from random import Random
from typing import Any

import grpc.aio
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from transports import wire_pb2
from transports.base import Arrived, ChannelSpec, Limits, Offer
from transports.core import CoreChannel
from transports.errors import PeerLost, ProtocolError, WaitTimeout
from transports.grpc_channel import frames
from transports.grpc_channel.host import is_loopback, read_hello
from transports.grpc_channel.link import Link
from transports.grpc_channel.transfer import BufferPool, Outgoing
from transports.header import encode_header, parse_header
from transports.mailbox import Mailbox
from transports.message import Header, Message, Payload, TensorSpec
from transports.offers import CoreDelivery
from transports.shared_memory.machine import shm_device
from transports.shared_memory.pool import SharedMemory
from transports.shared_memory.segment import Handle, map_payload

LIMITS = Limits(
    max_message_bytes=4096,
    max_tensors=4,
    max_header_bytes=4096,
    max_scalars=4,
    max_scalar_bytes=64,
    max_offers=3,
    max_offered_bytes=8192,
)
EXAMPLES = settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
NUMBERS = st.integers(0, 6)
LARGE = st.integers(0, 2**64 - 1)


def tensors() -> st.SearchStrategy[wire_pb2.Tensor]:
    dtype = st.sampled_from(["float32", "int8", "bool", "float33", ""])
    shape = st.lists(st.one_of(st.integers(0, 40), LARGE), max_size=3)
    return st.builds(
        lambda name, dtype, shape: wire_pb2.Tensor(name=name, dtype=dtype, shape=shape), st.text(max_size=2), dtype, shape
    )


def headers() -> st.SearchStrategy[bytes]:
    group = st.builds(lambda tensors: wire_pb2.Group(name="g", tensors=tensors), st.lists(tensors(), max_size=5))
    anything = st.builds(
        lambda groups, nbytes, sender: wire_pb2.Header(
            kind="k", round=1, sender=sender, groups=groups, nbytes=nbytes
        ).SerializeToString(),
        st.lists(group, max_size=2),
        st.one_of(st.integers(0, 5000), LARGE),
        st.sampled_from(["a", "b"]),
    )
    return st.one_of(good_headers(), good_headers(), anything, st.binary(max_size=80))


def good_headers() -> st.SearchStrategy[bytes]:
    return st.sampled_from([0, 1, 100, 4096]).map(header_of)


def header_of(nbytes: int) -> bytes:
    specs = {"g": {"w": TensorSpec(torch.uint8, (nbytes,))}} if nbytes else {}
    return encode_header(Header(kind="update", round=1, sender="a", specs=specs, nbytes=nbytes), Limits())


# ---- parsers


@EXAMPLES
@given(headers())
def test_a_header_is_a_header_within_the_limits_or_a_protocol_error(data):
    with suppress(ProtocolError):
        header = parse_header(data, LIMITS)
        assert header.nbytes <= LIMITS.max_message_bytes
        assert sum(len(group) for group in header.specs.values()) <= LIMITS.max_tensors
        Message.over(header, Payload(torch.zeros(header.nbytes, dtype=torch.uint8)))


@EXAMPLES
@given(st.binary(max_size=200))
def test_a_control_frame_is_one_or_a_protocol_error(data):
    with suppress(ProtocolError):
        assert frames.parse_frame(data, LIMITS).WhichOneof("body") is not None


def test_a_frame_that_nests_or_repeats_without_end_is_refused_or_ignored():
    # Protobuf skips what it does not know; groups in groups are the deepest that bytes can ask of it.
    for data in (b"\x0b" * 100_000, b"\x0b" * 1000 + b"\x0c" * 1000, b"\x0a" + b"\xff" * 9 + b"\x01"):
        with pytest.raises(ProtocolError):
            frames.parse_frame(data, LIMITS)


@EXAMPLES
@given(st.lists(st.tuples(st.sampled_from(["flame-name-bin", "flame-instance-bin", "x"]), st.one_of(st.text(), st.binary()))))
def test_a_hello_is_read_from_any_metadata(metadata):
    hello = read_hello(metadata)
    assert isinstance(hello.name, str)
    read_hello(hello.metadata())


@EXAMPLES
@given(st.text())
def test_an_address_of_any_form_is_here_or_elsewhere(text):
    assert is_loopback(text) in (True, False)


@EXAMPLES
@given(st.text())
def test_text_of_a_peer_becomes_harmless(text):
    found = frames.readable(text)
    assert len(found) <= len(text)
    assert all(char.isprintable() or char == "\n" for char in found)


@EXAMPLES
@given(
    st.builds(
        Handle,
        pid=st.one_of(st.integers(0, 300), st.integers(0, 2**32 - 1)),
        descriptor=st.one_of(st.integers(0, 40), st.integers(0, 2**32 - 1)),
        device=st.one_of(st.just(shm_device()), LARGE),
        inode=st.one_of(st.integers(0, 10_000), LARGE),
        filling=LARGE,
    ),
    st.integers(1, 2**40),
)
def test_a_handle_of_shared_memory_that_was_made_up_maps_nothing(handle, nbytes):
    with pytest.raises(OSError):
        map_payload(handle, nbytes)


# ---- the stream


class Pool(BufferPool):
    """Notes the largest payload that was asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.largest = 0

    def take(self, nbytes: int) -> Payload:
        self.largest = max(self.largest, nbytes)
        return super().take(nbytes)


class Loop:
    """Does at once what is posted."""

    def post(self, action: Callable[..., object], *args: object) -> bool:
        action(*args)
        return True


class Endpoint:
    """What a link needs of its endpoint."""

    limits = LIMITS

    def __init__(self) -> None:
        self.pool = Pool()
        self.loop: Any = Loop()
        self.memory = SharedMemory("fuzz")
        self.refused = 0

    def count_refused(self, what: str) -> None:
        self.refused += 1


class Plain(CoreChannel):
    """A channel of which only the events matter."""

    def _dispatch(self, message: Message, ends: Sequence[str], delivery: CoreDelivery) -> None:
        raise AssertionError


def bodies() -> st.SearchStrategy[bytes]:
    offer = st.builds(
        lambda number, header, more: wire_pb2.Frame(offer=wire_pb2.Offer(id=number, header=header, **more)).SerializeToString(),
        NUMBERS,
        headers(),
        st.sampled_from([{}, {"payload": b""}, {"payload": b"x"}, {"checksum": 1}, {"segment": wire_pb2.Segment(pid=1)}]),
    )
    run = st.builds(
        lambda number, chunks, more: wire_pb2.Frame(run=wire_pb2.Run(id=number, chunks=chunks, **more)).SerializeToString(),
        NUMBERS,
        st.one_of(st.integers(0, 3), st.integers(0, 2**32 - 1)),
        st.sampled_from([{}, {"checksum": 5}]),
    )
    small = st.builds(
        lambda kind, number: wire_pb2.Frame(**{kind: getattr(wire_pb2, kind.capitalize())(id=number)}).SerializeToString(),
        st.sampled_from(["fetch", "accept", "refuse"]),
        NUMBERS,
    )
    rest = st.sampled_from([frames.welcome("a"), frames.bye("enough", clean=True), frames.bye("broken", clean=False)])
    chunk = st.sampled_from([0, 1, 50, 100, 4096]).map(bytes)
    return st.one_of(offer, offer, run, small, chunk, chunk, st.binary(max_size=40), rest)


class Peer:
    """The other side of a stream: mostly keeps to the rules, so that it gets far, and then does not.

    It is the stream of the link that is tested: what it says is chosen by `dice` when the link reads.
    """

    def __init__(self, dice: Random, noise: Sequence[bytes]) -> None:
        self._dice = dice
        self._noise = noise
        self._steps = dice.randrange(60)
        self._number = 0
        self._sizes: dict[int, int] = {}
        self._wanted: dict[int, int] = {}
        self._offered: list[int] = []
        self._chunks: list[bytes] = []
        self.act: Callable[[str], None] = lambda _: None

    async def write(self, message: bytes) -> None:
        """Take in what the link says."""
        try:
            frame = frames.parse_frame(message, Limits())
        except ProtocolError:
            return  # a chunk
        if frame.HasField("fetch"):
            self._wanted[frame.fetch.id] = self._sizes.get(frame.fetch.id, 0)
        elif frame.HasField("offer"):
            self._offered.append(frame.offer.id)

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
        dice = self._dice
        if self._chunks and dice.random() < 0.9:
            return self._chunks.pop(0)
        match dice.choice(["offer", "offer", "act", "act", "act", "run", "run", "run", "answer", "anything"]):
            case "offer":
                return self._offer()
            case "run" if self._wanted:
                return self._run()
            case "answer" if self._offered:
                return self._answer()
            case "anything" if dice.random() < 0.25:
                return dice.choice(self._noise)
        self.act(dice.choice(["receive", "fetch", "accept", "refuse", "send"]))
        return None

    def _offer(self) -> bytes:
        self._number += 1
        nbytes = self._sizes[self._number] = self._dice.choice([0, 1, 100, 4096])
        offer = wire_pb2.Offer(id=self._number, header=header_of(nbytes))
        if self._dice.random() < 0.25:
            offer.payload = bytes(nbytes)
        return wire_pb2.Frame(offer=offer).SerializeToString()

    def _run(self) -> bytes:
        dice = self._dice
        number, left = dice.choice(sorted(self._wanted.items()))
        sizes = [dice.randint(1, 1500) for _ in range(dice.randint(1, 3))]
        if dice.random() < 0.8:
            ends = [min(left, sum(sizes[: i + 1])) for i in range(len(sizes))]
            sizes = [end - start for start, end in zip([0, *ends], ends, strict=False) if end > start]
        self._chunks = [dice.randbytes(size) for size in sizes]
        self._wanted[number] = left - sum(sizes)
        if self._wanted[number] <= 0:
            del self._wanted[number]
        run = wire_pb2.Run(id=number, chunks=len(sizes))
        if dice.random() < 0.6:
            run.checksum = zlib.crc32(b"".join(self._chunks)) ^ (dice.random() < 0.2)
        return wire_pb2.Frame(run=run).SerializeToString()

    def _answer(self) -> bytes:
        number = self._dice.choice(self._offered)
        frame = wire_pb2.Frame()
        match self._dice.choice(["fetch", "accept", "refuse"]):
            case "fetch":
                frame.fetch.id = number
            case "accept":
                frame.accept.id = number
            case _:
                frame.refuse.CopyFrom(wire_pb2.Refuse(id=number, reason="\x07 no"))
        return frame.SerializeToString()


class Situation:
    """A link between a worker and such a peer."""

    def __init__(self, dice: Random, noise: Sequence[bytes]) -> None:
        self.owner = Endpoint()
        self.mailbox = Mailbox()
        self.channel = Plain(ChannelSpec(name="c", group="g", ends=("a",)), self.mailbox)
        self.offers: list[Offer] = []
        self.deliveries: list[CoreDelivery] = []
        peer = Peer(dice, noise)
        peer.act = lambda name: getattr(self, name)()
        # The annotations of `Owner` are those of the classes above.
        owner: Any = self.owner
        self.link = Link(owner, self.channel, "a", peer, lambda _: None, checked=True, shared=False)

    def receive(self) -> None:
        with suppress(WaitTimeout):
            while True:
                event = self.channel.receive(0)
                if isinstance(event, Arrived):
                    self.offers.append(event.offer)

    def fetch(self) -> None:
        for offer in self.offers:
            offer.prefetch()

    def accept(self) -> None:
        for offer in self.offers[-1:]:
            offer.accept()

    def refuse(self) -> None:
        for offer in self.offers[:1]:
            offer.refuse("no")

    def send(self) -> None:
        message = Message("weights", 1, groups={"g": {"w": torch.zeros(40_000)}}).packed()
        delivery = CoreDelivery(self.mailbox, "a message", ["a"], lambda: None)
        self.deliveries.append(delivery)
        outgoing = Outgoing(header_of(0), message, delivery, 50_000)
        outgoing.number = len(self.deliveries)
        self.link.offer(outgoing)

    def outcomes(self) -> Iterator[object]:
        """What became of every offer and every delivery."""
        for offer in self.offers:
            try:
                yield offer.fetch(0)
            except (PeerLost, ProtocolError, ValueError) as error:
                yield error
        for delivery in self.deliveries:
            yield delivery.wait(0)


@settings(EXAMPLES, max_examples=600)
@given(st.integers(0, 2**64), st.lists(bodies(), min_size=2, max_size=2))
def test_a_stream_of_anything_ends_with_everything_settled_and_no_memory_beyond_the_limits(seed, noise):
    situation = Situation(Random(seed), noise)
    asyncio.run(situation.link.run())
    situation.receive()
    assert not situation.link.reason.startswith("failed here"), situation.link.reason
    assert situation.owner.pool.largest <= LIMITS.max_message_bytes
    assert situation.owner.refused >= (situation.link.violation is not None)
    for outcome in situation.outcomes():
        assert outcome is not None
