"""Connections that break, fall silent, and come back, between endpoints and between processes."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import torch

from tests.transports.cable import Cable
from tests.transports.peers import SOON, TOKEN, dialling, next_offer, opened, weights
from transports.base import Channel, ChannelSpec, Joined, Left
from transports.errors import PeerLost
from transports.grpc_channel.endpoint import GrpcEndpoint
from transports.message import Message

WORKER = """
import sys
from transports.base import Arrived, ChannelSpec
from transports.grpc_channel.endpoint import GrpcEndpoint
endpoint = GrpcEndpoint("a", token="the secret of this job", heartbeat=3.0)
channel = endpoint.open(ChannelSpec(name="param", group="default", ends=("hub",), dials=frozenset({"hub"}), backend="grpc"))
endpoint.connect({"hub": sys.argv[1]})
while True:
    event = channel.receive(120)
    if isinstance(event, Arrived):
        channel.send(event.offer.take(120), ["hub"])
"""


def next_left(channel: Channel) -> Left:
    event = channel.receive(SOON)
    assert isinstance(event, Left)
    return event


def exchange(center: Channel, spoke: Channel) -> None:
    delivery = spoke.send(weights(200_000), ["hub"])
    assert next_offer(center).take(SOON).groups["g"]["w"][-1] == 199_999
    assert delivery.wait(SOON)["hub"].accepted


class Site:
    """A hub and a worker with a cable between them, both joined."""

    def __init__(self, heartbeat: float) -> None:
        self.hub = GrpcEndpoint("hub", token=TOKEN, heartbeat=heartbeat)
        self.worker = GrpcEndpoint("a", token=TOKEN, heartbeat=heartbeat)
        self.center = opened(self.hub)
        self.cable = Cable(self.hub.address or "")
        self.spoke = dialling(self.worker, self.cable.address)
        self.joined()

    def joined(self) -> None:
        assert self.center.receive(SOON) == Joined("param", "a")
        assert self.spoke.receive(SOON) == Joined("param", "hub")


@contextmanager
def site(heartbeat: float) -> Iterator[Site]:
    made = Site(heartbeat)
    try:
        yield made
    finally:
        # First, so that nobody waits for an answer to its goodbye.
        made.cable.close()
        made.worker.close()
        made.hub.close()


# ---- bytes that change on their way

MARK = b"thirty-two bytes in one position"


class Spoiler(Cable):
    """Turns over one bit of the first MARK that passes."""

    spoiled = 0

    def passing(self, number: int, data: bytes, *, there: bool) -> bytes:
        if self.spoiled or MARK not in data:
            return data
        self.spoiled += 1
        return data.replace(MARK, bytes([MARK[0] ^ 1]) + MARK[1:], 1)


def marked(place: str) -> Message:
    if place == "header":
        return Message("skip", 1, scalars={"text": MARK.decode()})
    return Message("update", 1, groups={"g": {"w": torch.frombuffer(bytearray(MARK), dtype=torch.uint8)}})


@pytest.mark.parametrize("place", ["header", "payload"])
@pytest.mark.parametrize("there", [True, False], ids=["to the one that listens", "to the one that dials"])
def test_an_offer_that_changes_on_its_way_breaks_the_connection_and_is_taken_when_it_is_sent_again(place, there):
    with ExitStack() as stack:
        hub, worker = (stack.enter_context(GrpcEndpoint(name, token=TOKEN, checksum="always")) for name in ("hub", "a"))
        cable = stack.enter_context(Spoiler(hub.listen()))
        center, spoke = opened(hub), dialling(worker, cable.address)
        sender, receiver, end = (spoke, center, "hub") if there else (center, spoke, "a")
        joined = [Joined("param", "a"), Joined("param", "hub")]
        assert [channel.receive(SOON) for channel in (center, spoke)] == joined
        assert sender.send(marked(place), [end]).wait(SOON)[end].state == "lost"
        assert cable.spoiled == 1
        left = {channel: next_left(channel) for channel in (center, spoke)}
        assert [(each.clean, each.final) for each in left.values()] == [(False, False)] * 2
        assert "checksum of offer 1 differs" in left[receiver].reason
        assert [channel.receive(SOON) for channel in (center, spoke)] == joined
        delivery = sender.send(marked(place), [end])
        got = next_offer(receiver).take(SOON)
        assert (got.scalars, got.payload.buffer.tolist()) == (marked(place).scalars, marked(place).packed().payload.buffer.tolist())
        assert delivery.wait(SOON)[end].accepted
        assert hub.refused + worker.refused == 1


# ---- silence


def test_a_half_open_connection_is_found_by_both_sides_and_replaced():
    with site(heartbeat=3.0) as both:
        for _ in range(2):
            both.cable.block()
            delivery = both.center.send(weights(200_000), ["a"])
            for channel in (both.center, both.spoke):
                left = next_left(channel)
                assert (left.clean, left.final) == (False, False)
            assert delivery.wait(SOON)["a"].state == "lost"
            both.cable.mend()
            both.joined()
            exchange(both.center, both.spoke)


def test_a_silence_shorter_than_the_heartbeat_is_not_noticed():
    with site(heartbeat=60.0) as both:
        both.cable.block()
        delivery = both.spoke.send(weights(200_000), ["hub"])
        both.cable.unblock()
        next_offer(both.center).take(SOON)
        assert delivery.wait(SOON)["hub"].accepted
        exchange(both.center, both.spoke)


def test_a_worker_that_comes_back_need_not_wait_until_its_old_connection_is_found_dead():
    # Only the worker notices: what the hub sends is still taken by the cable.
    with site(heartbeat=600.0) as both:
        other = Cable(both.hub.address or "")
        both.cable.block()
        both.worker.connect({"hub": other.address})
        assert not next_left(both.spoke).final
        assert "came back over another one" in next_left(both.center).reason
        both.joined()
        exchange(both.center, both.spoke)
        both.worker.close()
        other.close()


def test_a_frozen_process_is_away_and_joins_again_when_it_goes_on():
    with GrpcEndpoint("hub", token=TOKEN, heartbeat=3.0) as hub:
        center = hub.open(ChannelSpec(name="param", group="default", ends=("a",), backend="grpc"))
        process = subprocess.Popen([sys.executable, "-c", WORKER, hub.address or ""], cwd=Path(__file__).parents[2])
        try:
            assert center.receive(60) == Joined("param", "a")
            os.kill(process.pid, signal.SIGSTOP)
            assert not next_left(center).final
            os.kill(process.pid, signal.SIGCONT)
            assert center.receive(SOON) == Joined("param", "a")
            delivery = center.send(weights(), ["a"])
            next_offer(center).take(SOON)
            assert delivery.wait(SOON)["a"].accepted
        finally:
            process.kill()
            process.wait()


# ---- connections that break


def test_a_connection_that_is_reset_in_the_middle_of_a_payload_is_back_and_the_message_can_be_sent_again():
    with site(heartbeat=60.0) as both:
        both.spoke.send(weights(20_000_000), ["hub"])
        offer = next_offer(both.center)
        both.cable.block()
        offer.prefetch()
        both.cable.cut()
        with pytest.raises(PeerLost):
            offer.fetch(SOON)
        assert not next_left(both.center).final
        assert not next_left(both.spoke).final
        both.cable.mend()
        both.joined()
        exchange(both.center, both.spoke)


def test_a_worker_whose_address_changed_is_not_the_one_that_is_connected():
    with site(heartbeat=600.0) as both:
        both.hub.connect({"a": "127.0.0.1:9"})
        both.hub.connect({"a": "127.0.0.1:10"})
        assert "a was started anew" in next_left(both.center).reason
        assert not next_left(both.spoke).final
        # Nobody has taken its place, so the old one may come back.
        both.joined()


def test_a_new_process_of_a_worker_takes_its_place_as_soon_as_its_new_address_is_known():
    with site(heartbeat=600.0) as both:
        both.cable.block()
        both.hub.connect({"a": "127.0.0.1:9"})
        refused = threading.Event()
        both.hub.count_refused = lambda what: refused.set()  # type: ignore[method-assign]
        with GrpcEndpoint("a", token=TOKEN) as new:
            spoke = dialling(new, both.hub.address)
            # The old connection seems alive, so the new process is not let in yet.
            assert refused.wait(SOON)
            assert both.center.joined == {"a"}
            both.hub.connect({"a": "127.0.0.1:10"})
            assert "a was started anew" in next_left(both.center).reason
            assert both.center.receive(SOON) == Joined("param", "a")
            assert spoke.receive(SOON) == Joined("param", "hub")
            # A notice that comes when the new process is there already drops nothing.
            both.hub.connect({"a": "127.0.0.1:10"})
            exchange(both.center, spoke)


def test_a_notice_that_comes_after_the_new_process_does_not_disturb_it():
    with GrpcEndpoint("hub", token=TOKEN) as hub:
        center = opened(hub)
        hub.connect({"a": "127.0.0.1:9"})
        with GrpcEndpoint("a", token=TOKEN) as old:
            dialling(old, hub.address).wait_joined(timeout=SOON)
            assert center.receive(SOON) == Joined("param", "a")
            old.abort("killed")
        assert not next_left(center).final
        with GrpcEndpoint("a", token=TOKEN) as new:
            spoke = dialling(new, hub.address)
            assert spoke.receive(SOON) == Joined("param", "hub")
            assert center.receive(SOON) == Joined("param", "a")
            hub.connect({"a": "127.0.0.1:10"})
            exchange(center, spoke)


def test_a_port_that_another_job_has_taken_meanwhile_does_not_end_the_search(own_host):
    with GrpcEndpoint("a", token=TOKEN) as worker:
        with GrpcEndpoint("hub", token=TOKEN, bind=f"{own_host}:0") as hub:
            center = opened(hub)
            address = hub.address or ""
            spoke = dialling(worker, address)
            assert spoke.receive(SOON) == Joined("param", "hub")
            hub.abort("killed")
        assert not next_left(spoke).final
        with GrpcEndpoint("hub", token="that of another job", bind=address) as stranger:
            opened(stranger)
            refused = threading.Event()
            stranger.count_refused = lambda what: refused.set()  # type: ignore[method-assign]
            assert refused.wait(SOON)
        with GrpcEndpoint("hub", token=TOKEN, bind=address) as hub:
            center = opened(hub)
            assert spoke.receive(SOON) == Joined("param", "hub")
            assert center.receive(SOON) == Joined("param", "a")


def test_closing_while_a_peer_is_searched_ends_the_search():
    before = set(threading.enumerate())
    with site(heartbeat=60.0) as both:
        both.cable.cut()
        next_left(both.spoke)
        both.worker.close()
        assert not [thread for thread in set(threading.enumerate()) - before if thread.name == "flame-run a"]
