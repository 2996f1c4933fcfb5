"""Headers as bytes: written by us, read from anyone. Reading trusts nothing and ends in a `Header` or `ProtocolError`."""

import math
from collections.abc import Mapping, Sequence

from google.protobuf.message import DecodeError

from transports import wire_pb2
from transports.base import Limits
from transports.dtypes import DTYPE_NAMES, DTYPES
from transports.errors import ProtocolError
from transports.message import Header, Scalar, Specs, TensorSpec, packed_size

_MAX_NAME = 4096
_MAX_DIMENSIONS = 64
_MAX_INTEGER_BYTES = 1024
_MAX_ROUND = 2**63 - 1


def encode_header(header: Header, limits: Limits) -> bytes:
    """Bytes of a header.

    Raises:
        ProtocolError: the message is beyond the limits; it would be refused by a peer.
        ValueError: text that is not valid Unicode.
    """
    wire = wire_pb2.Header(kind=header.kind, round=header.round, sender=header.sender, nbytes=header.nbytes)
    for name, value in header.scalars.items():
        _write_scalar(wire.scalars.add(name=name), value)
    for group, tensors in header.specs.items():
        table = wire.groups.add(name=group)
        for name, spec in tensors.items():
            table.tensors.add(name=name, dtype=DTYPE_NAMES[spec.dtype], shape=spec.shape)
    data: bytes = wire.SerializeToString()
    _check_size(len(data), header, limits)
    return data


def _check_size(nbytes: int, header: Header, limits: Limits) -> None:
    tensors = sum(len(group) for group in header.specs.values())
    longest = max((len(value.encode()) for value in header.scalars.values() if isinstance(value, str)), default=0)
    for found, bound, what in (
        (nbytes, limits.max_header_bytes, "max_header_bytes"),
        (header.nbytes, limits.max_message_bytes, "max_message_bytes"),
        (tensors, limits.max_tensors, "max_tensors"),
        (len(header.specs), limits.max_tensors, "max_tensors"),
        (len(header.scalars), limits.max_scalars, "max_scalars"),
        (longest, limits.max_scalar_bytes, "max_scalar_bytes"),
    ):
        if found > bound:
            raise ProtocolError(f"message {header.kind!r} of round {header.round}: {found} is over {what} = {bound}")


def _write_scalar(wire: wire_pb2.Scalar, value: Scalar) -> None:
    if isinstance(value, bool):
        wire.flag = value
    elif isinstance(value, int):
        wire.integer = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    elif isinstance(value, float):
        wire.real = value
    else:
        wire.text = value


def parse_header(data: bytes, limits: Limits) -> Header:
    """The header that these bytes hold; nothing of the payload is allocated.

    Raises:
        ProtocolError: not a header, inconsistent in itself, or beyond `limits`.
    """
    if len(data) > limits.max_header_bytes:
        raise ProtocolError(f"header of {len(data)} bytes is over max_header_bytes = {limits.max_header_bytes}")
    wire = wire_pb2.Header()
    try:
        wire.ParseFromString(data)
    except DecodeError as error:
        raise ProtocolError(f"not a message header: {error}") from error
    if not wire.kind or len(wire.kind) > _MAX_NAME or len(wire.sender) > _MAX_NAME or wire.round > _MAX_ROUND:
        raise ProtocolError("header without a kind, or with a kind, sender or round beyond bounds")
    specs = _read_specs(wire.groups, limits)
    nbytes = packed_size(specs)
    if nbytes != wire.nbytes:
        raise ProtocolError(f"header announces {wire.nbytes} bytes, its table of tensors holds {nbytes}")
    scalars = _read_scalars(wire.scalars, limits)
    return Header(kind=wire.kind, round=wire.round, sender=wire.sender, scalars=scalars, specs=specs, nbytes=nbytes)


def _read_scalars(wires: Sequence[wire_pb2.Scalar], limits: Limits) -> Mapping[str, Scalar]:
    if len(wires) > limits.max_scalars:
        raise ProtocolError(f"{len(wires)} scalars are over max_scalars = {limits.max_scalars}")
    scalars: dict[str, Scalar] = {}
    for wire in wires:
        if wire.name in scalars or len(wire.name) > _MAX_NAME:
            raise ProtocolError(f"scalar {wire.name[:80]!r} comes twice or its name is too long")
        scalars[wire.name] = _read_scalar(wire, limits)
    return scalars


def _read_scalar(wire: wire_pb2.Scalar, limits: Limits) -> Scalar:
    match wire.WhichOneof("value"):
        case "flag":
            return wire.flag
        case "integer" if 0 < len(wire.integer) <= _MAX_INTEGER_BYTES:
            return int.from_bytes(wire.integer, "little", signed=True)
        case "real":
            return wire.real
        case "text" if len(wire.text.encode()) <= limits.max_scalar_bytes:
            return wire.text
    raise ProtocolError(f"scalar {wire.name[:80]!r} has no value or one over max_scalar_bytes = {limits.max_scalar_bytes}")


def _read_specs(wires: Sequence[wire_pb2.Group], limits: Limits) -> Specs:
    count = sum(len(wire.tensors) for wire in wires)
    if max(count, len(wires)) > limits.max_tensors:
        raise ProtocolError(f"{count} tensors in {len(wires)} groups are over max_tensors = {limits.max_tensors}")
    specs: dict[str, dict[str, TensorSpec]] = {}
    for group in wires:
        if group.name in specs or len(group.name) > _MAX_NAME:
            raise ProtocolError(f"group {group.name[:80]!r} comes twice or its name is too long")
        tensors = specs[group.name] = {}
        for wire in group.tensors:
            if wire.name in tensors or len(wire.name) > _MAX_NAME:
                raise ProtocolError(f"tensor {wire.name[:80]!r} comes twice or its name is too long")
            tensors[wire.name] = _read_spec(wire, limits)
    return specs


def _read_spec(wire: wire_pb2.Tensor, limits: Limits) -> TensorSpec:
    dtype = DTYPES.get(wire.dtype)
    if dtype is None:
        raise ProtocolError(f"tensor {wire.name[:80]!r} has the unknown type {wire.dtype[:80]!r}")
    if len(wire.shape) > _MAX_DIMENSIONS:
        raise ProtocolError(f"tensor {wire.name[:80]!r} has {len(wire.shape)} dimensions, more than {_MAX_DIMENSIONS}")
    spec = TensorSpec(dtype, tuple(wire.shape))
    # Strides of an empty tensor are made of its other dimensions, so these are bounded even where nothing is stored.
    if math.prod(max(size, 1) for size in spec.shape) * dtype.itemsize > limits.max_message_bytes:
        raise ProtocolError(f"tensor {wire.name[:80]!r} is over max_message_bytes = {limits.max_message_bytes}")
    return spec
