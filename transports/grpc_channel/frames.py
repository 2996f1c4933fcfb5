"""The control frames between two workers, and the constants of the protocol."""

import resource

from google.protobuf.message import DecodeError

from transports import wire_pb2
from transports.base import Limits, Outcome
from transports.errors import ProtocolError

VERSION = 1
SERVICE = "flame_run.transports.v1.Transport"
METHOD = "Exchange"
INLINE_BYTES = 64 * 1024
"""A payload of at most this size travels with its offer."""
RUN_CHUNKS = 8
"""Chunks sent in a row before control frames get their turn."""
MAX_RUN_CHUNKS = 4096
MAX_CHUNK_BYTES = 16 * 2**20
_MAX_REASON = 4096
_SLACK = 64 * 1024
_MARGIN = 2**20
_MAX_CONTROL_BYTES = 64 * 1024
_MAX_METADATA = 16 * 1024
_LONGEST = 2**31 - 1
"""Milliseconds; what gRPC can count."""
_LONGEST_HANDSHAKE = 10.0
_MAX_STREAMS = 256
"""Streams on one connection: at least the channels that two workers share."""
_FEWEST_CONNECTIONS, _MOST_CONNECTIONS = 64, 2**20

TOKEN_KEY, VERSION_KEY, CHANNEL_KEY, GROUP_KEY, NAME_KEY, MACHINE_KEY = (
    "flame-token-bin",
    "flame-version",
    "flame-channel-bin",
    "flame-group-bin",
    "flame-name-bin",
    "flame-machine",
)
INSTANCE_KEY = "flame-instance-bin"


def stream_options(limits: Limits, heartbeat: float) -> list[tuple[str, int]]:
    """Options of gRPC for both sides: sizes, pings that notice half-open connections, no sharing, no proxies.

    Args:
        limits: bounds on what a peer may send.
        heartbeat: seconds after which a connection is over whose other side does not answer, of which half pass
            until it is asked.
    """
    # What is a little too long is ours to refuse and to count; gRPC ends a stream without saying why.
    longest = longest_frame(limits) + _MARGIN
    half = _milliseconds(heartbeat / 2)
    return [
        ("grpc.max_receive_message_length", longest),
        ("grpc.max_send_message_length", longest),
        ("grpc.max_metadata_size", _MAX_METADATA),
        ("grpc.absolute_max_metadata_size", _MAX_METADATA),
        ("grpc.keepalive_time_ms", half),
        ("grpc.keepalive_timeout_ms", half),
        ("grpc.http2.ping_timeout_ms", half),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.http2.max_ping_strikes", 0),
        ("grpc.initial_reconnect_backoff_ms", 50),
        ("grpc.min_reconnect_backoff_ms", 2_000),
        ("grpc.max_reconnect_backoff_ms", 500),
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.enable_http_proxy", 0),
        ("grpc.so_reuseport", 0),
    ]


def host_options(limits: Limits, heartbeat: float) -> list[tuple[str, int]]:
    """Options of the side that listens: as `stream_options`, and bounds on what strangers can hold.

    A connection is dropped that does not get as far as a whole hello, and one without a stream. No more connections are
    taken than half of the files that this process may open.
    """
    patience = _milliseconds(min(heartbeat, _LONGEST_HANDSHAKE))
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return [
        *stream_options(limits, heartbeat),
        ("grpc.server_handshake_timeout_ms", patience),
        ("grpc.http2.settings_timeout", patience),
        ("grpc.max_connection_idle_ms", patience),
        ("grpc.max_concurrent_streams", _MAX_STREAMS),
        ("grpc.max_allowed_incoming_connections", max(_FEWEST_CONNECTIONS, min(files // 2, _MOST_CONNECTIONS))),
    ]


def _milliseconds(seconds: float) -> int:
    return max(1, min(round(seconds * 1000), _LONGEST))


def longest_frame(limits: Limits) -> int:
    """Bytes that a frame has at most: those of an offer, or of a chunk."""
    return max(limits.max_header_bytes + INLINE_BYTES, MAX_CHUNK_BYTES) + _SLACK


def parse_frame(data: bytes, limits: Limits) -> wire_pb2.Frame:
    """The control frame that these bytes hold.

    Raises:
        ProtocolError: they hold none, or one beyond `limits`.
    """
    if len(data) > longest_frame(limits):
        raise ProtocolError(f"a frame of {len(data)} bytes, over max_header_bytes = {limits.max_header_bytes}")
    frame = wire_pb2.Frame()
    try:
        frame.ParseFromString(data)
    except DecodeError as error:
        raise ProtocolError(f"{len(data)} bytes that are no control frame") from error
    body = frame.WhichOneof("body")
    if body is None:
        raise ProtocolError(f"a control frame of {len(data)} bytes without content")
    if body != "offer" and len(data) > _MAX_CONTROL_BYTES:
        raise ProtocolError(f"a frame {body!r} of {len(data)} bytes")
    return frame


def welcome(name: str, machine: str = "") -> bytes:
    """First frame of the hosting side."""
    return wire_pb2.Frame(welcome=wire_pb2.Welcome(version=VERSION, name=name, machine=machine)).SerializeToString()


def fetch(offer: int, offset: int = 0, nbytes: int = 0) -> bytes:
    """Ask for a payload, or for `nbytes` bytes of it from `offset` on."""
    return wire_pb2.Frame(fetch=wire_pb2.Fetch(id=offer, offset=offset, bytes=nbytes)).SerializeToString()


def answer(offer: int, outcome: Outcome) -> bytes:
    """Tell what became of an offer."""
    if outcome.accepted:
        return wire_pb2.Frame(accept=wire_pb2.Accept(id=offer)).SerializeToString()
    return wire_pb2.Frame(refuse=wire_pb2.Refuse(id=offer, reason=_short(outcome.reason))).SerializeToString()


def bye(reason: str, *, clean: bool) -> bytes:
    """Last frame of a worker that leaves."""
    return wire_pb2.Frame(bye=wire_pb2.Bye(clean=clean, reason=_short(reason))).SerializeToString()


def _short(reason: str) -> str:
    return reason.encode("utf-8", "replace").decode()[:_MAX_REASON]


def readable(text: str) -> str:
    """Text of a peer for people: not too long, and no characters that a terminal would obey."""
    return "".join(char if char.isprintable() or char == "\n" else "?" for char in text[:_MAX_REASON])
