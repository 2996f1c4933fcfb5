"""Payloads taken piece by piece: the same over every transport."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.transports.conftest import TOKEN, GrpcNetwork
from tests.transports.peers import RawClient, frame, header_bytes, offer_frame, opened
from transports import wire_pb2
from transports.base import END_OF_STREAM, Arrived, Channel, Left, Offer, Stream
from transports.errors import PeerLost, ProtocolError
from transports.grpc_channel.endpoint import GrpcEndpoint
from transports.grpc_channel.transfer import Outgoing
from transports.message import ALIGNMENT, Message
from transports.pieces import PIECE_BYTES

SOON = 30.0


def update(nbytes: int, round: int = 1) -> Message:
    values = torch.arange(nbytes, dtype=torch.int64).to(torch.uint8)
    return Message("update", round, groups={"weights": {"w": values}})


def next_offer(channel: Channel) -> Offer:
    while not isinstance(event := channel.receive(SOON), Arrived):
        pass
    return event.offer


def drain(stream: Stream) -> None:
    while stream.next(SOON) is not END_OF_STREAM:
        pass


def streamed(offer: Offer) -> bytes:
    """All pieces put together; each copied at once, because the next one may take its memory."""
    stream, data = offer.stream(), bytearray()
    while (piece := stream.next(SOON)) is not END_OF_STREAM:
        assert piece.offset == len(data)
        assert piece.offset % ALIGNMENT == 0
        assert 0 < piece.data.numel() <= PIECE_BYTES
        data += piece.data.numpy().tobytes()
    assert stream.next(SOON) is END_OF_STREAM
    return bytes(data)


@pytest.mark.parametrize("nbytes", [1, 1000, 100_000, PIECE_BYTES, PIECE_BYTES + 1, 3 * PIECE_BYTES + 12_345])
def test_the_pieces_are_the_payload_and_may_be_taken_again(network, nbytes):
    center, spokes = network.star("a")
    message = update(nbytes)
    delivery = spokes["a"].send(message, ["hub"])
    offer = next_offer(center)
    expected = message.packed().buffer.numpy().tobytes()
    assert streamed(offer) == expected
    assert streamed(offer) == expected
    assert not delivery.done()
    offer.accept()
    assert delivery.wait(SOON)["hub"].accepted


def test_a_stream_begun_ahead_gives_its_pieces_when_they_are_wanted(network):
    center, spokes = network.star("a", "b")
    messages = {name: update(2 * PIECE_BYTES + n) for n, name in enumerate(spokes)}
    for name, spoke in spokes.items():
        spoke.send(messages[name], ["hub"])
    offers = [next_offer(center) for _ in spokes]
    streams = [offer.stream() for offer in offers]
    for offer, stream in zip(offers, streams, strict=True):
        sizes = []
        while (piece := stream.next(SOON)) is not END_OF_STREAM:
            sizes.append(piece.data.numel())
        assert sum(sizes) == offer.header.nbytes
        offer.accept()


def test_a_stream_that_is_given_up_harms_no_other_message(network):
    center, spokes = network.star("a")
    refused = spokes["a"].send(update(5 * PIECE_BYTES), ["hub"])
    next_message = update(2 * PIECE_BYTES, round=2)
    taken = spokes["a"].send(next_message, ["hub"])
    first, second = next_offer(center), next_offer(center)
    first.stream().next(SOON)
    first.refuse("enough")
    assert streamed(second) == next_message.packed().buffer.numpy().tobytes()
    second.accept()
    assert refused.wait(SOON)["hub"].reason == "enough"
    assert taken.wait(SOON)["hub"].accepted


def test_whole_and_in_pieces_at_the_same_time(network):
    center, spokes = network.star("a")
    message = update(3 * PIECE_BYTES + 7)
    spokes["a"].send(message, ["hub"])
    offer = next_offer(center)
    stream = offer.stream()
    stream.next(SOON)
    whole = offer.fetch(SOON)
    assert torch.equal(whole.buffer, message.packed().buffer)
    assert stream.next(SOON).offset == PIECE_BYTES
    offer.accept()


def test_a_sender_that_goes_away_half_way_is_noticed(network):
    hub = network.endpoint("hub")
    center = network.host(hub, "a")
    network.cabled(hub)
    sender = network.endpoint("a")
    channel = network.join(sender, hub)
    center.wait_joined(timeout=SOON)
    message = update(20 * PIECE_BYTES)
    channel.send(message, ["hub"])
    offer = next_offer(center)
    stream = offer.stream()
    first = stream.next(SOON)
    assert first.offset == 0
    network.part(hub, sender)
    while not isinstance(center.receive(SOON), Left):
        pass
    # What is mapped already may still be read; what has to travel cannot.
    if network.backend == "grpc":
        with pytest.raises(PeerLost):
            drain(stream)


@given(order=st.lists(st.sampled_from(["stream", "fetch", "refuse"]), min_size=1, max_size=5))
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=15)
def test_any_mix_of_ways_gives_the_same_bytes(network, order):
    if not network.endpoints:
        network.center, network.spokes = network.star("a")
    center, spoke = network.center, network.spokes["a"]
    message = update(PIECE_BYTES + 999)
    expected = message.packed().buffer.numpy().tobytes()
    delivery = spoke.send(message, ["hub"])
    offer = next_offer(center)
    for way in order:
        if way == "stream":
            assert streamed(offer) == expected
        elif way == "fetch":
            assert offer.fetch(SOON).buffer.numpy().tobytes() == expected
        else:
            offer.stream()
            break
    offer.refuse("seen")
    assert delivery.wait(SOON)["hub"].reason == "seen"


@pytest.mark.parametrize("chunk_bytes", [1000, 65_536, 2**20])
def test_pieces_over_grpc_do_not_depend_on_the_chunks_of_the_sender(chunk_bytes):
    network = GrpcNetwork()
    try:
        hub = network.endpoint("hub")
        center = network.host(hub, "a")
        sender = GrpcEndpoint("a", token=TOKEN, chunk_bytes=chunk_bytes, checksum="always")
        network.endpoints.append(sender)
        channel = network.join(sender, hub)
        message = update(PIECE_BYTES + 12_345)
        channel.send(message, ["hub"])
        assert streamed(next_offer(center)) == message.packed().buffer.numpy().tobytes()
    finally:
        network.close()


def test_a_corrupt_part_is_never_given_out(monkeypatch):
    monkeypatch.setattr(Outgoing, "_sum", lambda self, start, stop: 12345)
    network = GrpcNetwork()
    try:
        hub = network.endpoint("hub")
        center = network.host(hub, "a")
        sender = GrpcEndpoint("a", token=TOKEN, checksum="always")
        network.endpoints.append(sender)
        delivery = network.join(sender, hub).send(update(3 * PIECE_BYTES), ["hub"])
        with pytest.raises(ProtocolError, match="checksum differs"):
            next_offer(center).stream().next(SOON)
        assert delivery.wait(SOON)["hub"].state == "refused"
    finally:
        network.close()


def test_pieces_that_do_not_come_any_more_are_lost_although_the_payload_came_whole(hub):
    center, nbytes = opened(hub), 100_000
    with RawClient(hub.address) as peer:
        peer.send(offer_frame(header=header_bytes(nbytes_of=nbytes)))
        offer = next_offer(center)
        offer.prefetch()
        stream = offer.stream()
        assert peer.receive().HasField("welcome")
        assert peer.receive().fetch.bytes == 0
        peer.send(frame(run=wire_pb2.Run(id=1, chunks=1)), bytes(nbytes))
        assert offer.fetch(SOON).nbytes == nbytes
    while not isinstance(center.receive(SOON), Left):
        pass
    with pytest.raises(PeerLost):
        stream.next(SOON)
    assert streamed(offer) == bytes(nbytes)
