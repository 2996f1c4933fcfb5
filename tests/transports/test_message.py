"""Messages and their headers: bit-exact, aligned, and nothing but `ProtocolError` from bad bytes."""

import math
from collections.abc import Callable
from contextlib import suppress

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from transports import wire_pb2
from transports.base import Arrived, ChannelSpec, Limits
from transports.dtypes import DTYPES
from transports.errors import ProtocolError
from transports.header import encode_header, parse_header
from transports.inproc import Hub, InprocEndpoint
from transports.message import ALIGNMENT, Message, Payload, TensorSpec

LIMITS = Limits()
shapes = st.lists(st.integers(0, 4), max_size=4).map(tuple)


@st.composite
def tensors(draw: st.DrawFn) -> torch.Tensor:
    """A tensor of any dtype and shape with any bits."""
    dtype, shape = draw(st.sampled_from(sorted(DTYPES.items())))[1], draw(shapes)
    size = math.prod(shape) * dtype.itemsize
    raw = bytearray(draw(st.binary(min_size=size, max_size=size)))
    if dtype is torch.bool:
        raw = bytearray(byte & 1 for byte in raw)
    flat = torch.frombuffer(raw, dtype=torch.uint8) if size else torch.empty(0, dtype=torch.uint8)
    return flat.view(dtype).view(shape)


def bits(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes() if tensor.numel() else b""


groups = st.dictionaries(st.text(max_size=5), st.dictionaries(st.text(max_size=5), tensors(), max_size=4), max_size=3)
integers = st.integers(-(2**4000), 2**4000)
scalars = st.dictionaries(st.text(max_size=5), st.booleans() | integers | st.floats() | st.text(max_size=20), max_size=5)


@settings(max_examples=150, deadline=None)
@given(groups, scalars)
def test_every_tensor_type_and_scalar_survives_bit_for_bit(groups, scalars):
    hub = Hub()
    with InprocEndpoint("a", hub) as a, InprocEndpoint("b", hub) as b:
        sender = a.open(ChannelSpec(name="c", group="g", ends=("b",)))
        receiver = b.open(ChannelSpec(name="c", group="g", ends=("a",)))
        receiver.receive(0)
        sent = Message("kind", 3, scalars=scalars, groups=groups)
        sender.send(sent, ["b"])
        event = receiver.receive(0)
        assert isinstance(event, Arrived)
        got = event.offer.take(0)
    assert got.specs == sent.specs
    assert [*got.groups] == [*groups]
    for group, members in groups.items():
        for name, tensor in members.items():
            assert bits(got.groups[group][name]) == bits(tensor)
    header = parse_header(encode_header(sent.header, LIMITS), LIMITS)
    assert repr(dict(header.scalars)) == repr(scalars)
    assert (header.specs, header.nbytes) == (sent.specs, sent.nbytes)


def test_packed_tensors_lie_aligned_in_one_buffer_with_zeros_between():
    packed = Message(
        "k", 1, groups={"g": {"a": torch.ones(3, dtype=torch.uint8), "b": torch.ones(2, dtype=torch.float64)}}
    ).packed()
    start = packed.buffer.data_ptr()
    assert [tensor.data_ptr() - start for tensor in packed.groups["g"].values()] == [0, ALIGNMENT]
    assert start % ALIGNMENT == 0
    assert packed.buffer.dtype is torch.uint8
    assert packed.nbytes == packed.buffer.numel() == ALIGNMENT + 16
    assert not packed.buffer[3:ALIGNMENT].any()


def test_strided_tied_frozen_and_trained_tensors_are_packed_by_value():
    base = torch.arange(12.0).reshape(3, 4)
    weight = torch.nn.Parameter(base.clone())
    conjugate = torch.tensor([1 + 2j]).conj()
    groups = {"g": {"t": base.t(), "tied": base.t(), "p": weight, "slice": base[:, 1], "conj": conjugate}}
    packed = Message("k", 1, groups=groups).packed().groups["g"]
    assert torch.equal(packed["t"], base.t())
    assert torch.equal(packed["tied"], base.t())
    assert torch.equal(packed["slice"], base[:, 1])
    assert torch.equal(packed["conj"], torch.tensor([1 - 2j]))
    assert torch.equal(packed["p"], base)
    assert not packed["p"].requires_grad


def test_an_allocated_message_is_filled_in_place():
    message = Message.allocate("k", 1, {"g": {"w": TensorSpec(torch.bfloat16, (2, 2)), "n": TensorSpec(torch.int64, ())}})
    message.groups["g"]["w"].fill_(1.5)
    message.groups["g"]["n"].fill_(7)
    assert message.packed() is message
    assert message.buffer[:8].view(torch.bfloat16).tolist() == [1.5] * 4
    assert message.buffer[64:].view(torch.int64).item() == 7


@pytest.mark.parametrize(
    "bad",
    [
        lambda: Message("", 1),
        lambda: Message("k", -1),
        lambda: Message("k", 1, scalars={"a": None}),  # type: ignore[dict-item]
        lambda: Message("k", 1, groups={"g": {"w": torch.ones(2, 2).to_sparse()}}),
        lambda: Message("k", 1, groups={"g": {"w": torch.ones(2, device="meta")}}),
        lambda: Message("k", 1).buffer,
    ],
)
def test_what_cannot_travel_is_said_early(bad: Callable[[], object]):
    with pytest.raises((TypeError, ValueError)):
        bad()


def test_a_buffer_is_given_back_once_and_only_when_nobody_reads_it():
    given: list[torch.Tensor] = []
    payload = Payload(torch.empty(4, dtype=torch.uint8), given.append)
    payload.pin()
    payload.release()
    payload.release()
    assert given == []
    payload.unpin()
    payload.release()
    assert len(given) == 1


# ---- headers from anyone


def header_bytes(**changes: object) -> bytes:
    tensor = wire_pb2.Tensor(name="w", dtype="float32", shape=[2, 3])
    fields: dict[str, object] = {"kind": "k", "round": 1, "groups": [wire_pb2.Group(name="g", tensors=[tensor])], "nbytes": 24}
    return wire_pb2.Header(**{**fields, **changes}).SerializeToString()  # type: ignore[arg-type]


def one_tensor(**fields: object) -> list[wire_pb2.Group]:
    return [wire_pb2.Group(name="g", tensors=[wire_pb2.Tensor(**{"name": "w", "dtype": "float32", **fields})])]  # type: ignore[arg-type]


def test_a_good_header_is_read():
    header = parse_header(header_bytes(), LIMITS)
    assert header.specs == {"g": {"w": TensorSpec(torch.float32, (2, 3))}}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff\xff\xff",
        header_bytes(kind=""),
        header_bytes(kind="k" * 5000),
        header_bytes(round=2**63),
        header_bytes(nbytes=25),
        header_bytes(groups=one_tensor(dtype="float33", shape=[1]), nbytes=4),
        header_bytes(groups=one_tensor(dtype="__class__", shape=[1]), nbytes=4),
        header_bytes(groups=one_tensor(shape=[2**63, 2]), nbytes=0),
        header_bytes(groups=one_tensor(shape=[2**40, 2**40, 0]), nbytes=0),
        header_bytes(groups=one_tensor(shape=[1] * 65), nbytes=4),
        header_bytes(groups=one_tensor(shape=[2**40]), nbytes=2**42),
        header_bytes(groups=one_tensor(shape=[0]) * 2, nbytes=0),
        header_bytes(groups=[wire_pb2.Group(tensors=[wire_pb2.Tensor(dtype="int8", shape=[0])] * 2)], nbytes=0),
        header_bytes(scalars=[wire_pb2.Scalar(name="a")]),
        header_bytes(scalars=[wire_pb2.Scalar(name="a", integer=b"")]),
        header_bytes(scalars=[wire_pb2.Scalar(name="a", integer=bytes(2000))]),
        header_bytes(scalars=[wire_pb2.Scalar(name="a", flag=True)] * 2),
        header_bytes().replace(b"\x0a\x01k", b"\x0a\x01\xff"),
    ],
)
def test_an_inconsistent_header_is_a_protocol_error(data: bytes):
    with pytest.raises(ProtocolError):
        parse_header(data, LIMITS)


@pytest.mark.parametrize(
    ("limits", "name"),
    [
        (Limits(max_header_bytes=10), "max_header_bytes"),
        (Limits(max_message_bytes=23), "max_message_bytes"),
        (Limits(max_tensors=0), "max_tensors"),
        (Limits(max_scalars=0), "max_scalars"),
        (Limits(max_scalar_bytes=2), "max_scalar_bytes"),
    ],
)
def test_a_header_beyond_a_limit_names_it_when_written_and_when_read(limits: Limits, name: str):
    message = Message("k", 1, scalars={"s": "long"}, groups={"g": {"w": torch.ones(2, 3)}})
    with pytest.raises(ProtocolError, match=name):
        encode_header(message.header, limits)
    with pytest.raises(ProtocolError, match=name):
        parse_header(encode_header(message.header, LIMITS), limits)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_damaged_headers_raise_nothing_but_protocol_errors(data):
    scalars = [wire_pb2.Scalar(name="s", text="x"), wire_pb2.Scalar(name="i", integer=b"\1")]
    whole = bytearray(header_bytes(scalars=scalars))
    for place in data.draw(st.lists(st.integers(0, len(whole) - 1), max_size=4)):
        whole[place] = data.draw(st.integers(0, 255))
    noise = data.draw(st.just(bytes(whole)) | st.binary(max_size=60))
    with suppress(ProtocolError):
        parse_header(noise, LIMITS)
