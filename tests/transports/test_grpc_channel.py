"""What only a network has: strangers, garbage, processes that die, ports."""

import logging
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Self

import grpc
import pytest
import torch

from transports import wire_pb2
from transports.base import Arrived, Channel, ChannelSpec, Joined, Left, Limits, Offer
from transports.errors import AddressError, PeerLost, ProtocolError, Refused, WaitTimeout
from transports.grpc_channel import frames
from transports.grpc_channel.endpoint import GrpcEndpoint
from transports.grpc_channel.host import Hello, is_loopback
from transports.grpc_channel.transfer import Outgoing
from transports.header import encode_header
from transports.message import Header, Message

SOON = 30.0
TOKEN = "the secret of this job"
WORKER = """
import sys
from transports.base import ChannelSpec
from transports.grpc_channel.endpoint import GrpcEndpoint
from transports.message import Message
import torch
endpoint = GrpcEndpoint("a", token="the secret of this job")
channel = endpoint.open(ChannelSpec(name="param", group="default", ends=("hub",), dials=frozenset({"hub"})))
endpoint.connect({"hub": sys.argv[1]})
channel.send(Message("update", 1, groups={"g": {"w": torch.zeros(200_000_000, dtype=torch.uint8)}}), ["hub"])
channel.receive(60)
channel.receive(60)
"""


@pytest.fixture
def hub() -> Iterator[GrpcEndpoint]:
    with GrpcEndpoint("hub", token=TOKEN, join_timeout=SOON) as endpoint:
        yield endpoint


def opened(hub: GrpcEndpoint, *ends: str) -> Channel:
    return hub.open(ChannelSpec(name="param", group="default", ends=ends or ("a",), backend="grpc"))


def dialling(endpoint: GrpcEndpoint, address: str | None, group: str = "default") -> Channel:
    channel = endpoint.open(ChannelSpec(name="param", group=group, ends=("hub",), dials=frozenset({"hub"})))
    assert address is not None
    endpoint.connect({"hub": address})
    return channel


def weights(floats: int = 10) -> Message:
    return Message("update", 1, groups={"g": {"w": torch.arange(floats, dtype=torch.float32)}})


def next_offer(channel: Channel) -> Offer:
    event = channel.receive(SOON)
    assert isinstance(event, Arrived)
    return event.offer


def still_works(hub: GrpcEndpoint, center: Channel, name: str = "b") -> None:
    """The job goes on: a rightful worker joins and exchanges a message."""
    with GrpcEndpoint(name, token=TOKEN) as good:
        channel = dialling(good, hub.address)
        channel.wait_joined(timeout=SOON)
        delivery = channel.send(weights(100_000), ["hub"])
        event = center.receive(SOON)
        while not isinstance(event, Arrived) or event.end != name:
            event = center.receive(SOON)
        event.offer.take(SOON)
        assert delivery.wait(SOON)["hub"].accepted


def raw_stream(wire: Any) -> Any:
    return wire.stream_stream(f"/{frames.SERVICE}/{frames.METHOD}")


class RawClient:
    """Speaks gRPC, and whatever bytes it likes."""

    def __init__(self, address: str | None, **hello: Any) -> None:
        said = {"token": TOKEN.encode(), "version": "1", "channel": "param", "group": "default", "name": "a", **hello}
        assert address is not None
        self.wire: Any = grpc.insecure_channel(address)
        self.queue: SimpleQueue[bytes | None] = SimpleQueue()
        self.call = raw_stream(self.wire)(self._frames(), metadata=Hello(**said).metadata())

    def _frames(self) -> Iterator[bytes]:
        while (message := self.queue.get(timeout=SOON)) is not None:
            yield message

    def send(self, *messages: bytes) -> None:
        for message in messages:
            self.queue.put(message)

    def receive(self) -> wire_pb2.Frame:
        return wire_pb2.Frame.FromString(next(self.call))

    def status(self) -> tuple[grpc.StatusCode, str]:
        """How the stream ended."""
        with suppress(grpc.RpcError):
            for _ in self.call:
                pass
        return self.call.code(), self.call.details()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.queue.put(None)
        self.wire.close()


# ---- strangers


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
    with caplog.at_level(logging.WARNING), RawClient(hub.address, **hello) as stranger:
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
    with GrpcEndpoint("a", token=TOKEN) as first, GrpcEndpoint("a", token=TOKEN, join_timeout=0.3) as second:
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


def test_bytes_that_are_not_grpc_do_no_harm(hub):
    center = opened(hub, "a", "b")
    host, port = (hub.address or "").split(":")
    with socket.create_connection((host, int(port)), timeout=SOON) as stranger:
        stranger.sendall(b"GET / HTTP/1.1\r\n\r\n" + bytes(range(256)) * 16)
        stranger.shutdown(socket.SHUT_WR)
        while stranger.recv(4096):
            pass
    still_works(hub, center)


# ---- peers that break the rules


def offer_frame(number: int = 1, header: bytes | None = None, **more: Any) -> bytes:
    return wire_pb2.Frame(offer=wire_pb2.Offer(id=number, header=header or header_bytes(), **more)).SerializeToString()


def header_bytes(sender: str = "a", nbytes_of: int = 0) -> bytes:
    message = Message("update", 1, groups={"g": {"w": torch.empty(nbytes_of, dtype=torch.uint8)}} if nbytes_of else {})
    header = Header(kind="update", round=1, sender=sender, specs=message.specs, nbytes=nbytes_of)
    return encode_header(header, Limits())


def frame(**body: Any) -> bytes:
    return wire_pb2.Frame(**body).SerializeToString()


@pytest.mark.parametrize(
    "garbage",
    [
        [b""],
        [b"\xff" * 100],
        [bytes(range(255, -1, -1)) * 8],
        [frame(fetch=wire_pb2.Fetch(id=1))],
        [frame(accept=wire_pb2.Accept(id=1))],
        [frame(refuse=wire_pb2.Refuse(id=7, reason="why"))],
        [frame(run=wire_pb2.Run(id=1, chunks=1)), b"x"],
        [offer_frame(header=header_bytes(nbytes_of=9)), frame(run=wire_pb2.Run(id=1, chunks=1)), b"x" * 9],
        [offer_frame(2), offer_frame(1)],
        [offer_frame(1), offer_frame(1)],
        [offer_frame(1), frame(run=wire_pb2.Run(id=1, chunks=0))],
        [frames.welcome("hub")],
    ],
)
def test_a_peer_that_sends_garbage_is_cut_off_and_the_job_goes_on(hub, garbage: Sequence[bytes]):
    center = opened(hub, "a", "b")
    with RawClient(hub.address) as peer:
        peer.send(*garbage)
        code, reason = peer.status()
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert "broke the protocol" in reason
    event = center.receive(SOON)
    while not isinstance(event, Left):
        event = center.receive(SOON)
    assert not event.clean
    assert "broke the protocol" in event.reason
    assert hub.refused == 1
    still_works(hub, center)


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (offer_frame(header=b"\xff\xff"), "not a message header"),
        (offer_frame(header=header_bytes(sender="b")), "in the name of 'b'"),
        (offer_frame(header=header_bytes(nbytes_of=10), payload=b"123"), "payload of 3 bytes"),
        (offer_frame(header=header_bytes(nbytes_of=2**20 + 1)), "max_message_bytes"),
        (offer_frame(checksum=1), "checksum"),
        (offer_frame(header=header_bytes(nbytes_of=100_000), segment=wire_pb2.Segment(pid=1)), "shared memory where none"),
    ],
)
def test_a_bad_message_is_refused_and_the_next_one_taken(bad, reason):
    with GrpcEndpoint("hub", token=TOKEN, limits=Limits(max_message_bytes=2**20)) as hub:
        center = opened(hub)
        with RawClient(hub.address) as peer:
            peer.send(bad, offer_frame(2))
            answers = iter(peer.call)
            assert wire_pb2.Frame.FromString(next(answers)).welcome.name == "hub"
            refusal = wire_pb2.Frame.FromString(next(answers)).refuse
            assert refusal.id == 1
            assert reason in refusal.reason
            assert isinstance(center.receive(SOON), Joined)
            next_offer(center).take(SOON)
        assert hub.refused == 1


def test_a_header_beyond_the_limit_of_the_receiver_costs_only_its_sender(hub):
    with GrpcEndpoint("tiny", token=TOKEN, limits=Limits(max_header_bytes=1000)) as tiny:
        center = tiny.open(ChannelSpec(name="param", group="default", ends=("a", "b")))
        with GrpcEndpoint("a", token=TOKEN) as a:
            channel = a.open(ChannelSpec(name="param", group="default", ends=("tiny",), dials=frozenset({"tiny"})))
            a.connect({"tiny": tiny.address or ""})
            outcome = channel.send(Message("update", 1, scalars={"text": "x" * 2000}), ["tiny"]).wait(SOON)["tiny"]
            assert outcome.state == "refused"
            assert "max_header_bytes = 1000" in outcome.reason
            outcome = channel.send(Message("update", 1, scalars={"text": "x" * 900_000}), ["tiny"]).wait(SOON)["tiny"]
            assert outcome.state == "refused"
            assert tiny.refused == 2
        assert isinstance(center.receive(SOON), Joined)


@pytest.mark.parametrize("sizes", [[60_000, 60_000], [99_999, 2]])
def test_a_payload_longer_than_announced_cuts_the_peer_off(hub, sizes):
    center = opened(hub)
    with RawClient(hub.address) as peer:
        peer.send(offer_frame(header=header_bytes(nbytes_of=100_000)))
        assert isinstance(center.receive(SOON), Joined)
        offer = next_offer(center)
        offer.prefetch()
        assert peer.receive().welcome.name == "hub"
        assert peer.receive().fetch.id == 1
        peer.send(frame(run=wire_pb2.Run(id=1, chunks=2)), *(bytes(size) for size in sizes))
        assert peer.status()[0] is grpc.StatusCode.INVALID_ARGUMENT
    with pytest.raises(PeerLost, match="broke the protocol"):
        offer.fetch(SOON)


# ---- checksums


@pytest.mark.parametrize("floats", [10, 5_000_000])
def test_a_payload_with_checksum_arrives(hub, floats):
    center = opened(hub)
    with GrpcEndpoint("a", token=TOKEN, checksum="always", chunk_bytes=100_000) as endpoint:
        delivery = dialling(endpoint, hub.address).send(weights(floats), ["hub"])
        assert isinstance(center.receive(SOON), Joined)
        assert next_offer(center).take(SOON).groups["g"]["w"][-1] == floats - 1
        assert delivery.wait(SOON)["hub"].accepted


def test_a_corrupt_payload_is_noticed_before_it_is_fetched(hub, monkeypatch):
    monkeypatch.setattr(Outgoing, "_sum", lambda self, index: 12345)
    center = opened(hub)
    with GrpcEndpoint("a", token=TOKEN, checksum="always") as endpoint:
        delivery = dialling(endpoint, hub.address).send(weights(5_000_000), ["hub"])
        assert isinstance(center.receive(SOON), Joined)
        with pytest.raises(ProtocolError, match="checksum differs"):
            next_offer(center).fetch(SOON)
        outcome = delivery.wait(SOON)["hub"]
        assert outcome.state == "refused"
        assert "checksum" in outcome.reason
    assert hub.refused == 1


@pytest.mark.parametrize(
    ("peer", "here"),
    [
        ("ipv4:127.0.0.1:4000", True),
        ("ipv6:%5B::1%5D:4000", True),
        ("127.0.0.1:4000", True),
        ("localhost:4000", True),
        ("unix:/tmp/x", True),
        ("[::1]:80", True),
        ("ipv4:10.1.2.3:4000", False),
        ("aggregator.example:4000", False),
    ],
)
def test_checksums_are_left_out_only_on_this_machine(peer, here):
    assert is_loopback(peer) is here


# ---- processes that die


def start_worker(hub: GrpcEndpoint) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", WORKER, hub.address or ""], cwd=Path(__file__).parents[2])


@pytest.mark.parametrize("moment", ["offered", "fetching"])
def test_a_killed_process_leaves_uncleanly_and_its_offers_are_lost(hub, moment):
    center = opened(hub)
    process = start_worker(hub)
    try:
        assert isinstance(center.receive(60), Joined)
        offer = next_offer(center)
        delivery = center.send(weights(), ["a"])
        if moment == "fetching":
            os.kill(process.pid, signal.SIGSTOP)
            offer.prefetch()
            with pytest.raises(WaitTimeout, match="of round 1 from a on channel 'param'"):
                offer.fetch(0.05)
    finally:
        process.kill()
        process.wait()
    left = center.receive(SOON)
    assert isinstance(left, Left)
    assert (left.end, left.clean) == ("a", False)
    with pytest.raises(PeerLost, match="a: "):
        offer.fetch(SOON)
    assert delivery.wait(SOON)["a"].state in ("lost", "accepted")


def test_closing_ends_although_a_peer_is_frozen():
    process = None
    try:
        with GrpcEndpoint("hub", token=TOKEN) as hub:
            center = opened(hub)
            process = start_worker(hub)
            assert isinstance(center.receive(60), Joined)
            os.kill(process.pid, signal.SIGSTOP)
            delivery = center.send(weights(10_000_000), ["a"])
            hub.close(timeout=0.2)
            assert delivery.done()
    finally:
        if process is not None:
            process.kill()
            process.wait()


# ---- addresses and threads


def test_a_closed_endpoint_frees_its_port_and_its_thread():
    before = set(threading.enumerate())
    with GrpcEndpoint("hub", token=TOKEN) as hub:
        address = hub.listen()
        assert hub.listen() == address == hub.address
    assert not [thread for thread in set(threading.enumerate()) - before if "hub" in thread.name]
    with GrpcEndpoint("hub", token=TOKEN, bind=address) as again:
        assert again.listen() == address


def test_an_address_in_use_is_an_address_error(hub):
    with (
        GrpcEndpoint("other", token=TOKEN, bind=hub.listen()) as other,
        pytest.raises(AddressError, match="other cannot listen on"),
    ):
        other.listen()


def test_a_peer_that_nobody_hosts_is_an_address_error_that_names_the_place():
    with socket.socket() as taken, GrpcEndpoint("a", token=TOKEN, join_timeout=0.3) as endpoint:
        taken.bind(("127.0.0.1", 0))
        channel = dialling(endpoint, f"127.0.0.1:{taken.getsockname()[1]}")
        with pytest.raises(AddressError, match=r"hub could not be reached at 127.0.0.1:\d+ for channel 'param' .* within 0.3 s: "):
            channel.wait_joined(timeout=SOON)


def test_a_peer_that_moved_is_found_at_its_new_address(hub):
    with GrpcEndpoint("stranger", token=TOKEN) as wrong, GrpcEndpoint("a", token=TOKEN) as endpoint:
        wrong.open(ChannelSpec(name="param", group="default", ends=("a",)))
        channel = dialling(endpoint, wrong.address)
        opened(hub)
        endpoint.connect({"hub": hub.address or ""})
        channel.wait_joined(timeout=SOON)


@pytest.mark.parametrize(
    "make",
    [
        lambda: GrpcEndpoint("a", token=""),
        lambda: GrpcEndpoint("a", token="t", bind="0.0.0.0:0"),
        lambda: GrpcEndpoint("a", token="t", bind="127.0.0.1"),
        lambda: GrpcEndpoint("a", token="t", chunk_bytes=0),
        lambda: GrpcEndpoint("a", token="t", checksum="maybe"),  # type: ignore[arg-type]
    ],
)
def test_options_out_of_range_are_said_at_once(make: Callable[[], object]):
    with pytest.raises(ValueError):
        make()


def test_a_wildcard_is_advertised_under_the_name_given():
    with GrpcEndpoint("hub", token=TOKEN, bind="0.0.0.0:0", advertise="site.example") as endpoint:
        name, port = endpoint.listen().split(":")
        assert name == "site.example"
        assert int(port) > 0
    with GrpcEndpoint("hub", token=TOKEN, bind="0.0.0.0:0", advertise="site.example:443") as endpoint:
        assert endpoint.listen() == "site.example:443"


def test_a_ring_of_equals_connects_each_to_the_next():
    names = ["r-0", "r-1", "r-2"]
    endpoints = {name: GrpcEndpoint(name, token=TOKEN) for name in names}
    addresses = {name: endpoint.listen() for name, endpoint in endpoints.items()}
    channels = {}
    for i, name in enumerate(names):
        following, previous = names[(i + 1) % 3], names[i - 1]
        spec = ChannelSpec(name="ring", group="default", ends=(previous, following), dials=frozenset({following}))
        channels[name] = endpoints[name].open(spec)
        endpoints[name].connect({following: addresses[following]})
    for channel in channels.values():
        channel.wait_joined(timeout=SOON)
    for i, name in enumerate(names):
        channels[name].send(weights(), [names[(i + 1) % 3]])
    for i, name in enumerate(names):
        for _ in range(2):
            assert isinstance(channels[name].receive(SOON), Joined)
        assert next_offer(channels[name]).take(SOON).sender == names[i - 1]
    for endpoint in endpoints.values():
        endpoint.close()
