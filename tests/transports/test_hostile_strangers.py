"""Strangers: whoever does not belong here is refused, and nobody else notices."""

import logging
import socket
import struct
from collections import Counter
from collections.abc import Iterator

import grpc
import pytest

from tests.transports.peers import SOON, TOKEN, RawClient, Traffic, dialling, next_offer, opened, raw_stream, still_works, weights
from transports.base import Joined, Left
from transports.errors import Refused
from transports.grpc_channel import frames
from transports.grpc_channel.endpoint import GrpcEndpoint
from transports.grpc_channel.host import Hello, read_hello
from transports.grpc_channel.stream import Instance

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


def http2(kind: int, flags: int = 0, stream: int = 0, payload: bytes = b"") -> bytes:
    """A frame of HTTP/2."""
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def field(name: bytes, value: bytes) -> bytes:
    return b"\0" + bytes([len(name)]) + name + bytes([len(value)]) + value


SETTINGS = http2(4)
PATH = f"/{frames.SERVICE}/{frames.METHOD}".encode()
CALL = [
    (b":method", b"POST"),
    (b":scheme", b"http"),
    (b":path", PATH),
    (b"te", b"trailers"),
    (b"content-type", b"application/grpc"),
]
HELLO = http2(1, 4, 1, b"".join(field(*pair) for pair in CALL))


def connected(address: str | None) -> socket.socket:
    host, _, port = (address or "").rpartition(":")
    return socket.create_connection((host, int(port)), timeout=SOON)


def swallowed(stranger: socket.socket) -> None:
    """Read until the other side hangs up."""
    try:
        while stranger.recv(4096):
            pass
    except ConnectionResetError:
        pass


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[GrpcEndpoint]:
    """A hub that soon loses its patience with strangers, and not with workers."""
    monkeypatch.setattr(frames, "_LONGEST_HANDSHAKE", 1.0)
    with GrpcEndpoint("hub", token=TOKEN, join_timeout=SOON) as endpoint:
        yield endpoint


# ---- who is let in


@pytest.mark.parametrize(
    ("hello", "code", "reason"),
    [
        ({"token": b"guess"}, grpc.StatusCode.UNAUTHENTICATED, "wrong token"),
        ({"token": b""}, grpc.StatusCode.UNAUTHENTICATED, "wrong token"),
        ({"token": TOKEN.encode() + b"\0"}, grpc.StatusCode.UNAUTHENTICATED, "wrong token"),
        ({"version": "0"}, grpc.StatusCode.FAILED_PRECONDITION, "protocol version"),
        ({"group": "na"}, grpc.StatusCode.PERMISSION_DENIED, "group 'na' is not 'default'"),
        ({"name": "mallory"}, grpc.StatusCode.PERMISSION_DENIED, "'mallory' is none of its ends"),
        ({"name": "hub"}, grpc.StatusCode.PERMISSION_DENIED, "'hub' is none of its ends"),
    ],
)
def test_a_stranger_is_refused_logged_and_counted_and_the_job_goes_on(hub, caplog, hello, code, reason):
    center = opened(hub, "a", "b")
    with caplog.at_level(logging.WARNING), Traffic(hub), RawClient(hub.address, **hello) as stranger:
        status = stranger.status()
    assert status[0] is code
    assert reason in status[1]
    assert reason in caplog.text
    assert hub.refused == 1
    still_works(hub, center)


def test_a_worker_with_a_wrong_token_learns_that_it_is_refused(hub):
    opened(hub)
    with GrpcEndpoint("a", token="guess") as endpoint:
        channel = dialling(endpoint, hub.address)
        delivery = channel.send(weights(), ["hub"])
        with pytest.raises(Refused, match=r"hub at .* refused a: wrong token"):
            channel.wait_joined(timeout=SOON)
        assert delivery.wait(SOON)["hub"].state == "lost"
        left = channel.receive(SOON)
        assert isinstance(left, Left)
        assert "wrong token" in left.reason


def test_a_second_worker_of_the_same_name_is_refused_while_the_first_lives(hub):
    center = opened(hub)
    with GrpcEndpoint("a", token=TOKEN) as first, GrpcEndpoint("a", token=TOKEN, join_timeout=3.0) as second:
        channel = dialling(first, hub.address)
        channel.wait_joined(timeout=SOON)
        with pytest.raises(Refused, match="'a' is connected already"):
            dialling(second, hub.address).wait_joined(timeout=SOON)
        delivery = channel.send(weights(), ["hub"])
        assert isinstance(center.receive(SOON), Joined)
        next_offer(center).take(SOON)
        assert delivery.wait(SOON)["hub"].accepted


def test_a_channel_that_never_opens_is_a_refusal_with_its_name():
    with GrpcEndpoint("hub", token=TOKEN, join_timeout=0.2) as hub, GrpcEndpoint("a", token=TOKEN) as endpoint:
        channel = dialling(endpoint, hub.listen())
        with pytest.raises(Refused, match=r"hub, channel 'param': not open after 0.2 s"):
            channel.wait_joined(timeout=SOON)


@pytest.mark.parametrize("instance", [None, Instance(bytes(16), 2**64 - 1)])
def test_a_thief_of_a_name_and_the_token_does_not_get_the_place_of_its_owner(hub, instance):
    opened(hub)
    with Traffic(hub):
        for _ in range(3):
            with RawClient(hub.address, channel="work", name="worker", instance=instance) as thief:
                code, reason = thief.status()
            assert code is grpc.StatusCode.ALREADY_EXISTS
            assert "'worker' is connected already" in reason
    assert hub.refused == 3


def test_a_hello_that_was_heard_before_is_refused_and_one_that_follows_it_replaces_it(hub):
    center = opened(hub)
    first = Instance(bytes(range(16)), 7)
    with RawClient(hub.address, instance=first) as owner:
        assert owner.receive().welcome.name == "hub"
        assert center.receive(SOON) == Joined("param", "a")
        for replayed in (first, Instance(first.identity, 6)):
            with RawClient(hub.address, instance=replayed) as thief:
                assert thief.status()[0] is grpc.StatusCode.ALREADY_EXISTS
        with RawClient(hub.address, instance=first.next()) as again:
            assert again.receive().welcome.name == "hub"
            assert owner.status()[0] is grpc.StatusCode.UNAVAILABLE
            left = center.receive(SOON)
            assert isinstance(left, Left)
            assert not left.final
            assert "came back over another one" in left.reason
            assert center.receive(SOON) == Joined("param", "a")


def test_what_a_hello_says_of_its_process_survives_the_way_and_nothing_else_is_taken_for_it():
    instance = Instance(bytes(range(16)), 2**40)
    hello = Hello(b"t", "1", "c", "g", "n", instance=instance)
    assert read_hello(hello.metadata()) == hello
    for data in (b"", bytes(23), bytes(25), instance.to_bytes()[:-1]):
        assert Instance.from_bytes(data) is None


def test_a_stranger_with_an_enormous_hello_is_refused(hub):
    center = opened(hub, "a", "b")
    with Traffic(hub), RawClient(hub.address, token=b"x" * 2**20) as stranger:
        assert stranger.status()[0] in (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL)
    still_works(hub, center)


# ---- slow ones and many


def test_bytes_that_are_not_grpc_do_no_harm(hub):
    center = opened(hub, "a", "b")
    with Traffic(hub), connected(hub.address) as stranger:
        stranger.sendall(b"GET / HTTP/1.1\r\n\r\n" + bytes(range(256)) * 16)
        stranger.shutdown(socket.SHUT_WR)
        swallowed(stranger)
    still_works(hub, center)


@pytest.mark.parametrize(
    "said",
    [
        b"",
        PREFACE[:7],
        PREFACE,
        PREFACE + SETTINGS,
        PREFACE + SETTINGS + HELLO[:5],
        PREFACE + SETTINGS + HELLO[:40],
        PREFACE + SETTINGS + http2(1, 0, 1, HELLO[9:30]),
    ],
    ids=["nothing", "half a preface", "a preface", "no call", "half a frame", "half a hello", "a hello without an end"],
)
def test_a_stranger_who_does_not_come_to_the_point_is_dropped(quick, said):
    center = opened(quick, "a", "b")
    with Traffic(quick), connected(quick.address) as stranger:
        stranger.sendall(said)
        swallowed(stranger)
    still_works(quick, center)


def test_a_stranger_who_answers_every_ping_but_makes_no_call_is_dropped(quick):
    center = opened(quick, "a", "b")
    with Traffic(quick), connected(quick.address) as stranger:
        stranger.sendall(PREFACE + SETTINGS)
        waiting = b""
        while data := stranger.recv(4096):
            waiting += data
            while len(waiting) >= 9 and len(waiting) >= 9 + (size := int.from_bytes(waiting[:3], "big")):
                kind, flags, payload = waiting[3], waiting[4], waiting[9 : 9 + size]
                waiting = waiting[9 + size :]
                if kind in (4, 6) and not flags & 1:
                    stranger.sendall(http2(kind, 1, 0, payload if kind == 6 else b""))
    still_works(quick, center)


def test_a_flood_of_silent_connections_ends_and_workers_join_meanwhile(quick):
    center = opened(quick, "a", "b")
    with Traffic(quick):
        strangers = [connected(quick.address) for _ in range(300)]
        still_works(quick, center)
        for stranger in strangers:
            swallowed(stranger)
            stranger.close()
    still_works(quick, center, "a")


def test_a_flood_of_wrong_tokens_is_refused_counted_and_does_not_flood_the_log(hub, caplog):
    center = opened(hub, "a", "b")
    hello, codes = Hello(b"guess", "1", "param", "default", "a").metadata(), Counter[grpc.StatusCode]()
    with caplog.at_level(logging.WARNING), Traffic(hub):
        # gRPC may drop the connection of who calls so often, sooner or later.
        while codes[grpc.StatusCode.UNAUTHENTICATED] <= 300:
            with grpc.insecure_channel(hub.address or "") as wire:
                calls = [raw_stream(wire)(iter(()), metadata=hello) for _ in range(1000)]
                codes.update(call.code() for call in calls)
    assert set(codes) <= {grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED}
    assert codes[grpc.StatusCode.UNAUTHENTICATED] <= hub.refused <= codes.total()
    lines = [record for record in caplog.records if "wrong token" in record.getMessage()]
    assert 100 < len(lines) <= 100 + hub.refused.bit_length()
    assert "the 256th that it refused" in "".join(line.getMessage() for line in lines)
    still_works(hub, center)


def test_what_a_stranger_says_cannot_steer_a_terminal(hub, caplog):
    opened(hub)
    with caplog.at_level(logging.WARNING), RawClient(hub.address, name="\x1b[2J\x07 all is well") as stranger:
        assert stranger.status()[0] is grpc.StatusCode.PERMISSION_DENIED
    assert "all is well" in caplog.text
    assert not set("\x1b\x07") & set(caplog.text)
