"""The control frames between two workers, and the constants of the protocol."""

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

TOKEN_KEY, VERSION_KEY, CHANNEL_KEY, GROUP_KEY, NAME_KEY, MACHINE_KEY = (
    "flame-token-bin",
    "flame-version",
    "flame-channel-bin",
    "flame-group-bin",
    "flame-name-bin",
    "flame-machine",
)


def stream_options(limits: Limits) -> list[tuple[str, int]]:
    """Options of gRPC for both sides: sizes, pings that notice half-open connections, no sharing, no proxies."""
    longest = max(limits.max_header_bytes + INLINE_BYTES, MAX_CHUNK_BYTES) + _SLACK
    return [
        ("grpc.max_receive_message_length", longest),
        ("grpc.max_send_message_length", longest),
        ("grpc.keepalive_time_ms", 20_000),
        ("grpc.keepalive_timeout_ms", 20_000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.http2.min_recv_ping_interval_without_data_ms", 5_000),
        ("grpc.http2.max_ping_strikes", 0),
        ("grpc.initial_reconnect_backoff_ms", 50),
        ("grpc.min_reconnect_backoff_ms", 2_000),
        ("grpc.max_reconnect_backoff_ms", 500),
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.enable_http_proxy", 0),
        ("grpc.so_reuseport", 0),
        ("grpc.max_concurrent_streams", 2**31 - 1),
    ]


def parse_frame(data: bytes) -> wire_pb2.Frame:
    """The control frame that these bytes hold.

    Raises:
        ProtocolError: they hold none.
    """
    frame = wire_pb2.Frame()
    try:
        frame.ParseFromString(data)
    except DecodeError as error:
        raise ProtocolError(f"{len(data)} bytes that are no control frame") from error
    if frame.WhichOneof("body") is None:
        raise ProtocolError(f"a control frame of {len(data)} bytes without content")
    return frame


def welcome(name: str, machine: str = "") -> bytes:
    """First frame of the hosting side."""
    return wire_pb2.Frame(welcome=wire_pb2.Welcome(version=VERSION, name=name, machine=machine)).SerializeToString()


def fetch(offer: int) -> bytes:
    """Ask for a payload."""
    return wire_pb2.Frame(fetch=wire_pb2.Fetch(id=offer)).SerializeToString()


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
