"""Everything that reads bytes of others, fed with anything: it ends in a value or in `ProtocolError`, within its limits."""

from contextlib import suppress
from random import Random

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.transports.dicing_peer import converse
from tests.transports.lone_link import LIMITS, PART_BYTES, header_of
from transports import wire_pb2
from transports.errors import ProtocolError
from transports.grpc_channel import frames
from transports.grpc_channel.host import is_loopback, read_hello
from transports.header import parse_header
from transports.message import Message, Payload
from transports.shared_memory.machine import shm_device
from transports.shared_memory.segment import Handle, map_payload

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
        st.one_of(st.integers(0, 9000), LARGE),
        st.sampled_from(["a", "b"]),
    )
    return st.one_of(good_headers(), good_headers(), anything, st.binary(max_size=80))


def good_headers() -> st.SearchStrategy[bytes]:
    return st.sampled_from([0, 1, 100, 8192]).map(header_of)


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
    part = st.builds(frames.fetch, NUMBERS, st.one_of(st.integers(0, 80_000), LARGE), st.one_of(st.integers(0, 80_000), LARGE))
    small = st.builds(
        lambda kind, number: wire_pb2.Frame(**{kind: getattr(wire_pb2, kind.capitalize())(id=number)}).SerializeToString(),
        st.sampled_from(["fetch", "accept", "refuse"]),
        NUMBERS,
    )
    rest = st.sampled_from([frames.welcome("a"), frames.bye("enough", clean=True), frames.bye("broken", clean=False)])
    chunk = st.sampled_from([0, 1, 50, 100, 4096]).map(bytes)
    return st.one_of(offer, offer, run, part, small, chunk, chunk, st.binary(max_size=40), rest)


@settings(EXAMPLES, max_examples=600)
@given(st.integers(0, 2**64), st.lists(bodies(), min_size=2, max_size=2))
def test_a_stream_of_anything_ends_with_everything_settled_and_no_memory_beyond_the_limits(seed, noise):
    converse(Random(seed), noise)


def test_a_peer_that_is_mostly_honest_gets_as_far_as_whole_payloads_and_all_of_their_pieces():
    workers = [converse(Random(seed), [b""]) for seed in range(100)]
    whole = [offer for worker in workers for offer in worker.offers if offer.transferred]
    taken = [(offer, data) for worker in workers for (offer, _), data in zip(worker.streamed, worker.taken, strict=True)]
    pieces = [offer for offer, data in taken if len(data) == offer.header.nbytes > PART_BYTES]
    assert len(whole) > 20
    assert len(pieces) > 10
