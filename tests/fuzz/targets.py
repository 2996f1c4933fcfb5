"""Everything that reads bytes of the network, each as a function that catches the errors that are declared and no others."""

import json
import struct
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from random import Random
from typing import Any

import torch

from flame_run.control import control_pb2 as pb
from flame_run.control import wire
from flame_run.control.errors import SessionRefused
from flame_run.control.grpc_session import GrpcSession
from flame_run.control.orders import Abort, Gone, Received, Start
from flame_run.errors import InvalidConfig
from flame_run.join.bundle import CARD, TOKEN, read_bundle
from flame_run.security.private import write_private
from roles.codecs import make_codec
from roles.rounds.average import WeightedSum
from roles.rounds.check import check_header
from tests.fuzz.engine import Target, scratch
from tests.fuzz.job import SmallJob
from tests.fuzz.streams import Situation, does, says
from tests.transports.dicing_peer import converse
from tests.transports.lone_link import LIMITS
from transports import wire_pb2
from transports.base import Limits
from transports.errors import ProtocolError
from transports.grpc_channel import frames
from transports.grpc_channel.host import Hello, is_loopback, read_hello
from transports.grpc_channel.stream import Instance
from transports.header import encode_header, parse_header
from transports.message import Header, Message, Payload, TensorSpec


def pieces(data: bytes) -> Iterator[bytes]:
    """`data` as byte strings, each behind its length of two bytes; what is left at the end is the last."""
    while data:
        size = int.from_bytes(data[:2], "little")
        yield data[2 : 2 + size]
        data = data[2 + size :]


def together(*parts: bytes) -> bytes:
    """The opposite of `pieces`."""
    return b"".join(struct.pack("<H", len(part)) + part for part in parts)


# ---- between workers

SPECS = {"w": TensorSpec(torch.float32, (40, 8)), "b": TensorSpec(torch.float32, (64,)), "n": TensorSpec(torch.int64, ())}
SCALARS: Mapping[str, bool | int | float | str] = {"weight": 3.0, "samples": 10, "merged": False, "text": "é", "large": -(2**70)}


def header_of(specs: Mapping[str, Mapping[str, TensorSpec]], scalars: Mapping[str, Any] = SCALARS) -> bytes:
    """A header of an update."""
    nbytes = Message.allocate("update", 1, specs).nbytes
    return encode_header(Header(kind="update", round=1, sender="a", scalars=scalars, specs=specs, nbytes=nbytes), Limits())


def header() -> Target:
    """Headers of messages, and the tensors that they describe."""

    def run(data: bytes) -> None:
        with suppress(ProtocolError):
            found = parse_header(data, LIMITS)
            assert found.nbytes <= LIMITS.max_message_bytes
            Message.over(found, Payload(torch.zeros(found.nbytes, dtype=torch.uint8)))

    small = {"g": {"w": TensorSpec(torch.float32, (3, 4)), "e": TensorSpec(torch.bool, (0, 7))}}
    return Target(name="header", run=run, seeds=[header_of(small), header_of({}), header_of({"weights": SPECS})], megabytes=16)


def frame() -> Target:
    """Control frames between workers."""

    def run(data: bytes) -> None:
        with suppress(ProtocolError):
            assert frames.parse_frame(data, LIMITS).WhichOneof("body") is not None

    seeds = [each.SerializeToString() for each in sample_frames()]
    return Target(name="frame", run=run, seeds=[*seeds, frames.welcome("hub", "m"), frames.bye("done", clean=True)], megabytes=16)


def sample_frames() -> list[wire_pb2.Frame]:
    """One of each kind that a peer may send after its hello."""
    small = header_of({"g": {"w": TensorSpec(torch.uint8, (100,))}}, {})
    return [
        wire_pb2.Frame(offer=wire_pb2.Offer(id=1, header=small)),
        wire_pb2.Frame(offer=wire_pb2.Offer(id=2, header=small, payload=bytes(100), checksum=1)),
        wire_pb2.Frame(offer=wire_pb2.Offer(id=3, header=small, segment=wire_pb2.Segment(pid=1, descriptor=2))),
        wire_pb2.Frame(run=wire_pb2.Run(id=1, chunks=2, checksum=0)),
        wire_pb2.Frame(fetch=wire_pb2.Fetch(id=1)),
        wire_pb2.Frame(fetch=wire_pb2.Fetch(id=1, offset=1000, bytes=66_000)),
        wire_pb2.Frame(accept=wire_pb2.Accept(id=1)),
        wire_pb2.Frame(refuse=wire_pb2.Refuse(id=1, reason="no")),
    ]


def hello() -> Target:
    """What a peer says of itself in the metadata of a call: keys and values in turn."""
    keys = [key for key, _ in Hello(b"", "", "", "", "").metadata()]

    def run(data: bytes) -> None:
        parts = list(pieces(data))
        metadata = [(keys[key[0] % len(keys)] if key else "x", value) for key, value in zip(parts[::2], parts[1::2], strict=False)]
        found = read_hello(metadata)
        read_hello(found.metadata())
        is_loopback(found.name)
        said = frames.readable(found.name + found.group)
        assert all(char.isprintable() or char == "\n" for char in said)

    good = Hello(b"token", "1", "param", "default", "trainer-0", "machine", Instance(bytes(16), 3)).metadata()
    values = [value if isinstance(value, bytes) else value.encode() for _, value in good]
    parts = [part for at, value in enumerate(values) for part in (bytes([at]), value)]
    return Target(name="hello", run=run, seeds=[together(*parts), together(b"\x04", b"[::1]:99")], megabytes=16)


def stream() -> Target:
    """A whole stream between two workers: what comes, and what its receiver does meanwhile."""
    said = [says(each.SerializeToString()) for each in sample_frames()]
    chunks = says(bytes(60)), says(bytes(40))
    whole = together(said[0], does("fetch"), said[3], *chunks, does("accept"), does("send"), said[4], said[5], says(b""))
    parts = together(said[0], does("stream"), said[3], *chunks, does("next"), does("next"), does("send"), said[5], said[6])
    seeds = [whole, parts, *(together(each, does("fetch"), does("stream"), does("send")) for each in said)]
    seeds.append(together(says(frames.bye("x", clean=True))))
    return Target(name="stream", run=lambda data: Situation(list(pieces(data))).play(), seeds=seeds, megabytes=32)


def conversation() -> Target:
    """The same with a peer that knows the rules: the bytes are the dice that it throws, and what it says against them."""

    def run(data: bytes) -> None:
        parts = [*pieces(data), b"", b""]
        converse(Random(parts[0]), parts[1:])

    said = [each.SerializeToString() for each in sample_frames()]
    return Target(name="conversation", run=run, seeds=[together(bytes([at]), *said) for at in range(8)], megabytes=32)


def update() -> Target:
    """An update with its payload, plain or encoded, up to the numbers that would be added."""
    codecs = [None, *map(make_codec, ("bf16", "int8", "topk", ["delta", "fp16"], ["topk", "int8"]))]

    def run(data: bytes) -> None:
        codec = codecs[data[0] % len(codecs)] if data else None
        parts = [*pieces(data[1:]), b"", b""]
        encoded = None if codec is None else codec.specs(SPECS)
        try:
            found = parse_header(parts[0], LIMITS)
        except ProtocolError:
            return
        if check_header(found, round=1, total=WeightedSum(SPECS), encoded=encoded) is not None:
            return
        payload = torch.zeros(found.nbytes, dtype=torch.uint8)
        given = torch.frombuffer(bytearray(parts[1][: found.nbytes] or b"\0"), dtype=torch.uint8)
        payload[: min(len(given), found.nbytes)] = given[: found.nbytes]
        message = Message.over(found, Payload(payload))
        if codec is not None and codec.check(message.groups, SPECS) is None:
            out = {name: torch.zeros(spec.shape, dtype=spec.dtype) for name, spec in SPECS.items()}
            codec.decode(message.groups, out)
            assert all(bool(torch.isfinite(value).all()) for value in out.values())

    scalars = {"weight": 3.0, "samples": 10}
    seeds = [
        bytes([at]) + together(header_of({"weights": SPECS} if codec is None else codec.specs(SPECS), scalars), bytes(2000))
        for at, codec in enumerate(codecs)
    ]
    return Target(name="update", run=run, seeds=seeds, megabytes=64)


# ---- between a worker and the controller


def report() -> Target:
    """All that a stream says to the controller, up to the records and the summary of the run."""
    job = SmallJob()

    def run(data: bytes) -> None:
        job.begin()
        with suppress(SessionRefused):
            for said in pieces(data):
                job.hear(said)
        job.end()

    result = {"metrics": {"loss": 0.5}, "best": {"round": 1, "metrics": {}}, "rounds": 2, "round_seconds": [0.1], "samples": 5}
    known = [
        wire.register("aggregator-0", 7, "host", "session", attempt=1),
        *(
            wire.numbered(each, number)
            for number, each in enumerate(
                [
                    wire.ready("127.0.0.1:1"),
                    wire.state("running", 1, None, False),
                    wire.metrics(1, {"loss": 0.5, "accuracy": float("nan")}),
                    wire.progress(1, 2),
                    wire.result(result),
                    wire.state("failed", None, "why", True),
                    wire.goodbye(),
                ],
                1,
            )
        ),
    ]
    single = [together(known[0], pb.Report.FromString(each).SerializeToString()) for each in known[1:]]
    return Target(name="report", run=run, seeds=[together(*known), *single, together(wire.heartbeat())], megabytes=64)


def order() -> Target:
    """What a controller, or whoever passes for one, says to a worker."""

    def run(data: bytes) -> None:
        session = GrpcSession("127.0.0.1:1", "token", "trainer-0")
        heard: list[object] = []
        session.on_abort = heard.append
        session.on_gone = lambda *told: heard.append(told)
        session.on_addresses = heard.append
        with suppress(ValueError):
            for said in pieces(data):
                session._take(said)

    known = [
        wire.part({"worker": {"name": "trainer-0"}, "channels": []}, 30.0),
        *(wire.order(each) for each in (Received(0), Start({"a-0": "127.0.0.1:9"}), Gone("b-0", "lost"), Abort("over"))),
        wire.farewell(),
    ]
    return Target(name="order", run=run, seeds=[together(*known), *(together(each) for each in known)], megabytes=64)


# ---- files and certificates that others hand over


def bundle() -> Target:
    """The bundle that a site was given."""
    folder = scratch()

    def run(data: bytes) -> None:
        card, token = (*pieces(data), b"", b"")[:2]
        (folder / CARD).write_bytes(card)
        write_private(folder / TOKEN, token)
        with suppress(InvalidConfig):
            read_bundle(folder)

    card = json.dumps({"worker": "trainer-0", "role": "trainer", "job": "job", "address": "host:1"}).encode()
    return Target(name="bundle", run=run, seeds=[together(card, b"0123456789abcdef\n"), together(b"[" * 3000, b"t")], megabytes=64)


def certificate() -> Target:
    """See `tests.fuzz.certificates`."""
    from tests.fuzz.certificates import certificate as make

    return make()


def revocations() -> Target:
    """See `tests.fuzz.certificates`."""
    from tests.fuzz.certificates import revocations as make

    return make()


TARGETS: Mapping[str, Callable[[], Target]] = {
    each.__name__: each
    for each in (header, frame, hello, stream, conversation, update, report, order, bundle, certificate, revocations)
}
"""Name -> makes the target."""
