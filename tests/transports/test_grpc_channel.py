"""What only a network has: checksums, processes that die, addresses."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.transports.peers import SOON, TOKEN, dialling, next_offer, opened, weights
from transports.base import ChannelSpec, Joined, Left
from transports.errors import AddressError, PeerLost, ProtocolError, WaitTimeout
from transports.grpc_channel.endpoint import GrpcEndpoint
from transports.grpc_channel.host import is_loopback
from transports.grpc_channel.loop import LoopThread
from transports.grpc_channel.transfer import Outgoing

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
    monkeypatch.setattr(Outgoing, "_sum", lambda self, start, stop: 12345)
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


def test_a_closed_endpoint_frees_its_port_and_its_thread(own_host):
    before = set(threading.enumerate())
    with GrpcEndpoint("hub", token=TOKEN, bind=f"{own_host}:0") as hub:
        address = hub.listen()
        assert hub.listen() == address == hub.address
    assert not [thread for thread in set(threading.enumerate()) - before if "hub" in thread.name]
    with GrpcEndpoint("hub", token=TOKEN, bind=address) as again:
        assert again.listen() == address


def test_an_event_for_a_loop_that_has_ended_disturbs_nobody():
    # gRPC passes events on between the loops of a process, and stops in the middle where one of them raises.
    happened: list[int] = []
    thread = LoopThread("short-lived")
    assert thread.post(happened.append, 1)
    loop = thread.run(_this_loop(), SOON)
    thread.close()
    assert not thread.post(happened.append, 2)
    loop.call_soon_threadsafe(happened.append, 3)
    assert happened == [1]


async def _this_loop() -> asyncio.AbstractEventLoop:
    return asyncio.get_running_loop()


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
        lambda: GrpcEndpoint("a", token="t", heartbeat=0.0),
        lambda: GrpcEndpoint("a", token="t", heartbeat=float("inf")),
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
