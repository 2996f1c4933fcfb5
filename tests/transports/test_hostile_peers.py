"""Peers that were let in and break the rules: it costs them their connection, and nobody else anything."""

import zlib
from collections.abc import Sequence

import grpc
import pytest

from tests.transports.peers import (
    SOON,
    TOKEN,
    RawClient,
    Traffic,
    frame,
    header_bytes,
    next_left_reason,
    next_offer,
    offer_frame,
    opened,
    still_works,
    weights,
)
from transports import wire_pb2
from transports.base import Channel, ChannelSpec, Joined, Limits, Offer
from transports.errors import PeerLost, ProtocolError, WaitTimeout
from transports.grpc_channel import frames
from transports.grpc_channel.endpoint import GrpcEndpoint
from transports.message import Message, Payload


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
        [offer_frame(checksum=1)],
        [offer_frame(1), frame(run=wire_pb2.Run(id=1, chunks=0))],
        [frames.welcome("hub")],
        [frame(refuse=wire_pb2.Refuse(id=1, reason="x" * 2**17))],
        [frame(bye=wire_pb2.Bye(reason="x" * 2**17))],
        [bytes(2**25 + 2**18)],
    ],
)
def test_a_peer_that_sends_garbage_is_cut_off_and_the_job_goes_on(hub, garbage: Sequence[bytes]):
    center = opened(hub, "a", "b")
    with Traffic(hub), RawClient(hub.address) as peer:
        peer.send(*garbage)
        code, reason = peer.status()
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert "broke the protocol" in reason
    assert "broke the protocol" in next_left_reason(center)
    assert hub.refused == 1
    still_works(hub, center)


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (offer_frame(header=b"\xff\xff"), "not a message header"),
        (offer_frame(header=header_bytes(sender="b")), "in the name of 'b'"),
        (offer_frame(header=header_bytes(nbytes_of=10), payload=b"123"), "payload of 3 bytes"),
        (offer_frame(header=header_bytes(nbytes_of=2**20 + 1)), "max_message_bytes"),
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


# ---- payloads that come again, in another order, too short, or not at all


def fetched(hub: GrpcEndpoint, center: Channel, peer: RawClient, nbytes: int = 100_000) -> Offer:
    """An offer of `peer` whose payload was asked for."""
    peer.send(offer_frame(header=header_bytes(nbytes_of=nbytes)))
    assert center.receive(SOON) == Joined("param", "a")
    offer = next_offer(center)
    offer.prefetch()
    assert peer.receive().welcome.name == hub.name
    assert peer.receive().fetch.id == 1
    return offer


def run_of(*chunks: bytes, number: int = 1, checksum: int | None = None) -> list[bytes]:
    sum_of = zlib.crc32(b"".join(chunks)) if checksum is None else checksum
    return [frame(run=wire_pb2.Run(id=number, chunks=len(chunks), checksum=sum_of)), *chunks]


FIRST, SECOND = bytes(60_000), b"\1" * 40_000


def test_a_payload_in_several_runs_is_put_together(hub):
    center = opened(hub)
    with RawClient(hub.address) as peer:
        offer = fetched(hub, center, peer)
        peer.send(*run_of(FIRST), *run_of(SECOND))
        assert offer.take(SOON).buffer.numpy().tobytes() == FIRST + SECOND
        assert peer.receive().accept.id == 1


@pytest.mark.parametrize(
    "bad",
    [
        run_of(FIRST, b"", SECOND),
        run_of(*[bytes(2**24 + 1)]),
        [frame(run=wire_pb2.Run(id=1, chunks=5000)), FIRST],
        run_of(FIRST, SECOND, b"\1"),
        run_of(FIRST, SECOND) * 2,
        [*run_of(FIRST, SECOND), *run_of(SECOND)],
        [*run_of(FIRST), *run_of(SECOND, number=2)],
        [*run_of(FIRST), offer_frame(1)],
        [*run_of(FIRST), frame(fetch=wire_pb2.Fetch(id=1))],
        [*run_of(FIRST), b"\xff\xff"],
    ],
    ids=[
        "an empty chunk",
        "a chunk that is too large",
        "too many chunks",
        "one byte too many",
        "the payload again",
        "its second half again",
        "a run of no offer",
        "the offer again",
        "a fetch of an offer of the other side",
        "garbage between runs",
    ],
)
def test_chunks_that_are_replayed_or_out_of_place_cut_the_peer_off_and_nobody_else(hub, bad):
    center = opened(hub, "a", "b")
    with Traffic(hub), RawClient(hub.address) as peer:
        fetched(hub, center, peer)
        peer.send(*bad)
        assert peer.status()[0] is grpc.StatusCode.INVALID_ARGUMENT
        assert "broke the protocol" in next_left_reason(center)
    assert hub.refused == 1
    still_works(hub, center)


def test_chunks_in_another_order_are_found_by_their_checksum(hub):
    center = opened(hub, "a", "b")
    with Traffic(hub), RawClient(hub.address) as peer:
        offer = fetched(hub, center, peer)
        peer.send(*run_of(SECOND, FIRST, checksum=zlib.crc32(FIRST + SECOND)))
        with pytest.raises(ProtocolError, match="its checksum differs"):
            offer.fetch(SOON)
        assert "checksum" in peer.receive().refuse.reason
    assert hub.refused == 1
    still_works(hub, center)


def test_a_message_that_was_corrupt_in_its_first_run_is_not_healed_by_the_second(hub):
    center = opened(hub)
    with RawClient(hub.address) as peer:
        offer = fetched(hub, center, peer)
        peer.send(*run_of(FIRST, checksum=1), *run_of(SECOND))
        assert "checksum" in peer.receive().refuse.reason
        with pytest.raises(ProtocolError, match="its checksum differs"):
            offer.fetch(SOON)


def test_what_still_comes_of_a_message_that_was_refused_in_the_middle_is_let_pass_and_no_byte_more(hub):
    center = opened(hub, "a", "b")
    with RawClient(hub.address) as peer:
        offer = fetched(hub, center, peer)
        peer.send(*run_of(FIRST))
        offer.refuse("too slow")
        assert peer.receive().refuse.reason == "too slow"
        peer.send(*run_of(SECOND[:10_000]), *run_of(SECOND[10_000:]), offer_frame(2))
        next_offer(center).take(SOON)
        assert peer.receive().accept.id == 2
        peer.send(*run_of(SECOND))
        assert peer.status()[0] is grpc.StatusCode.INVALID_ARGUMENT
    assert "nobody waits for" in next_left_reason(center)
    still_works(hub, center)


def test_a_payload_that_stops_in_the_middle_is_lost_with_its_connection(hub):
    center = opened(hub, "a", "b")
    with Traffic(hub):
        with RawClient(hub.address) as peer:
            offer = fetched(hub, center, peer)
            peer.send(*run_of(FIRST))
            with pytest.raises(WaitTimeout, match="was not transferred"):
                offer.fetch(0)
        next_left_reason(center)
        with pytest.raises(PeerLost):
            offer.fetch(SOON)
    still_works(hub, center)


@pytest.mark.parametrize("kind", ["accept", "refuse", "fetch"])
def test_an_answer_that_comes_twice_cuts_the_peer_off(hub, kind):
    center = opened(hub, "a", "b")
    delivery = center.send(weights(50_000), ["a"])
    with RawClient(hub.address) as peer:
        assert peer.receive().welcome.name == "hub"
        number = peer.receive().offer.id
        body = {"accept": wire_pb2.Accept(id=number), "refuse": wire_pb2.Refuse(id=number), "fetch": wire_pb2.Fetch(id=number)}
        peer.send(frame(**{kind: body[kind]}), frame(**{kind: body[kind]}))
        assert peer.status()[0] is grpc.StatusCode.INVALID_ARGUMENT
    assert "broke the protocol" in next_left_reason(center)
    assert delivery.wait(SOON)["a"].state == {"accept": "accepted", "refuse": "refused", "fetch": "lost"}[kind]
    still_works(hub, center)


# ---- too much


@pytest.mark.parametrize(
    ("limits", "name", "header"),
    [
        (Limits(max_offers=8), "max_offers", header_bytes()),
        (Limits(max_offered_bytes=9 * len(header_bytes()) - 1), "max_offered_bytes", header_bytes()),
    ],
)
def test_more_offers_than_allowed_are_refused_until_some_are_answered(limits, name, header):
    with GrpcEndpoint("hub", token=TOKEN, limits=limits) as hub:
        center = opened(hub)
        with RawClient(hub.address) as peer:
            peer.send(*(offer_frame(number, header) for number in range(1, 10)))
            assert peer.receive().welcome.name == "hub"
            refusal = peer.receive().refuse
            assert refusal.id == 9
            assert name in refusal.reason
            assert center.receive(SOON) == Joined("param", "a")
            next_offer(center).accept()
            assert peer.receive().accept.id == 1
            peer.send(offer_frame(10, header))
            for _ in range(8):
                next_offer(center).accept()
        assert hub.refused == 1


def test_a_peer_that_reads_no_answers_is_cut_off_before_they_fill_the_memory():
    with GrpcEndpoint("hub", token=TOKEN, limits=Limits(max_offers=8)) as hub:
        center = opened(hub, "a", "b")
        bad = header_bytes(sender="somebody else" * 300)
        with Traffic(hub), RawClient(hub.address) as peer:
            peer.send(*(offer_frame(number, bad) for number in range(1, 10_000)))
            assert "does not read the answers" in next_left_reason(center)
        assert hub.refused < 10_000
        still_works(hub, center)


def test_a_payload_for_which_there_is_no_memory_is_refused(hub, monkeypatch):
    def take(nbytes: int) -> Payload:
        raise RuntimeError(f"can't allocate {nbytes} bytes")

    center = opened(hub, "a", "b")
    with RawClient(hub.address) as peer, monkeypatch.context() as patch:
        patch.setattr(hub.pool, "take", take)
        peer.send(offer_frame(header=header_bytes(nbytes_of=100_000)))
        assert center.receive(SOON) == Joined("param", "a")
        with pytest.raises(ProtocolError, match="no memory for 100000 bytes"):
            next_offer(center).fetch(SOON)
        assert peer.receive().welcome.name == "hub"
        assert "no memory" in peer.receive().refuse.reason
    still_works(hub, center)
