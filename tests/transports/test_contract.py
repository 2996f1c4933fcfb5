"""What roles may rely on, whatever carries the messages."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from transports.base import Arrived, Channel, Joined, Left, Limits, Offer, Outcome
from transports.errors import Aborted, PeerLost, ProtocolError, TransportError, WaitTimeout
from transports.message import Message, Scalar

SOON = 30.0
MEGABYTE = 2**20


def message(kind: str = "update", round: int = 1, *, floats: int = 10, **scalars: Any) -> Message:
    return Message(kind, round, scalars=scalars, groups={"weights": {"w": torch.arange(floats, dtype=torch.float32)}})


def next_offer(channel: Channel) -> Offer:
    event = channel.receive(SOON)
    assert isinstance(event, Arrived)
    return event.offer


def next_left(channel: Channel) -> Left:
    event = channel.receive(SOON)
    assert isinstance(event, Left)
    return event


def fails_with(action: Callable[[], object]) -> tuple[threading.Thread, list[BaseException]]:
    """Run `action` in a thread; what it raised is in the list once the thread has ended."""
    errors: list[BaseException] = []

    def run() -> None:
        try:
            action()
        except TransportError as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, errors


# ---- who is there


def test_both_sides_learn_that_the_other_joined(network):
    hub = network.endpoint("hub")
    center = network.host(hub, "a")
    assert center.joined == frozenset()
    spoke = network.join(network.endpoint("a"), hub)
    assert center.receive(SOON) == Joined("param", "a")
    assert spoke.receive(SOON) == Joined("param", "hub")
    assert center.joined == {"a"}
    assert spoke.joined == {"hub"}


def test_a_peer_may_come_before_the_channel_is_open(network):
    hub, early = network.endpoint("hub"), network.endpoint("a")
    network.host(hub, "a", name="other")
    spoke = network.join(early, hub)
    center = network.host(hub, "a")
    center.wait_joined(timeout=SOON)
    spoke.wait_joined(timeout=SOON)


def test_waiting_for_ends_consumes_no_event(network):
    hub = network.endpoint("hub")
    center = network.host(hub, "a", "b")
    for name in ("a", "b"):
        network.join(network.endpoint(name), hub)
    center.wait_joined(timeout=SOON)
    assert {center.receive(SOON), center.receive(SOON)} == {Joined("param", "a"), Joined("param", "b")}


def test_a_join_that_does_not_happen_names_who_is_missing(network):
    hub = network.endpoint("hub")
    center = network.host(hub, "a", "b", "c", group="eu")
    network.join(network.endpoint("a"), hub, group="eu")
    center.wait_joined(["a"], timeout=SOON)
    with pytest.raises(WaitTimeout, match=r"'param' \(group 'eu'\), of 3 ends .*: b, c$"):
        center.wait_joined(timeout=0)


def test_an_end_that_came_and_said_goodbye_is_not_waited_for(network):
    center, _ = network.star("a", "b")
    network.endpoints[1].close()
    assert next_left(center).end == "a"
    center.wait_joined(timeout=SOON)
    assert center.joined == {"b"}


def test_a_closed_endpoint_has_left_cleanly(network):
    center, spokes = network.star("a", "b")
    network.endpoints[1].close()
    left = next_left(center)
    assert (left.end, left.clean) == ("a", True)
    assert center.joined == {"b"}
    assert spokes["b"].joined == {"hub"}


def test_an_aborted_endpoint_has_not_left_cleanly_and_says_why(network):
    center, _ = network.star("a")
    network.endpoints[1].abort("the disk is full")
    network.endpoints[1].close()
    left = next_left(center)
    assert (left.end, left.clean) == ("a", False)
    assert "the disk is full" in left.reason


def test_a_worker_that_raises_has_not_left_cleanly(network):
    center, _ = network.star("a")
    with pytest.raises(KeyError), network.endpoints[1]:
        raise KeyError("weights")
    left = next_left(center)
    assert not left.clean
    assert "KeyError" in left.reason


def test_a_worker_that_left_can_come_back_under_its_name(network):
    center, _ = network.star("a")
    hub = network.endpoints[0]
    network.endpoints[1].close()
    next_left(center)
    assert center.send(message(), ["a"]).wait(SOON)["a"].state == "lost"
    again = network.join(network.endpoint("a"), hub)
    assert center.receive(SOON) == Joined("param", "a")
    again.receive(SOON)
    delivery = center.send(message(), ["a"])
    next_offer(again).take(SOON)
    assert delivery.wait(SOON)["a"].accepted


def test_two_groups_of_a_channel_do_not_meet(network):
    hub, other = network.endpoint("hub"), network.endpoint("other")
    center = network.host(hub, "a", group="eu")
    network.host(other, "b", group="na")
    network.join(network.endpoint("a"), hub, group="eu")
    network.join(network.endpoint("b"), other, group="na")
    center.wait_joined(timeout=SOON)
    assert center.joined == {"a"}


# ---- messages


def test_a_message_arrives_as_it_was_sent(network):
    center, spokes = network.star("a")
    scalars: dict[str, Scalar] = {
        "samples": 2**70,
        "negative": -1,
        "loss": 0.1,
        "infinite": float("inf"),
        "name": "Zürich",
        "last": True,
        "first": False,
    }
    sent = Message("update", 7, scalars=scalars, groups={"weights": {"w": torch.randn(3, 5)}, "state": {}})
    delivery = spokes["a"].send(sent, ["hub"])
    got = next_offer(center).take(SOON)
    assert delivery.wait(SOON) == {"hub": Outcome("accepted")}
    assert (got.kind, got.round, got.sender) == ("update", 7, "a")
    assert dict(got.scalars) == scalars
    assert {name: type(value) for name, value in got.scalars.items()} == {n: type(v) for n, v in scalars.items()}
    assert list(got.groups) == ["weights", "state"]
    assert torch.equal(got.groups["weights"]["w"], sent.groups["weights"]["w"])


def test_a_message_without_tensors_or_scalars_arrives(network):
    center, spokes = network.star("a")
    delivery = center.send(Message("end", 0), ["a"])
    got = next_offer(spokes["a"]).take(SOON)
    assert (got.kind, got.round, dict(got.scalars), dict(got.groups), got.buffer.numel()) == ("end", 0, {}, {}, 0)
    assert delivery.wait(SOON)["a"].accepted


def test_the_header_comes_before_the_payload_is_asked_for(network):
    center, spokes = network.star("a")
    delivery = spokes["a"].send(message(floats=MEGABYTE, samples=12), ["hub"])
    offer = next_offer(center)
    assert offer.header.scalars == {"samples": 12}
    assert offer.header.sender == "a"
    assert offer.header.nbytes == 4 * MEGABYTE
    assert offer.header.specs["weights"]["w"].shape == (MEGABYTE,)
    assert not delivery.done()


def test_fetching_is_not_taking(network):
    center, spokes = network.star("a")
    delivery = spokes["a"].send(message(floats=MEGABYTE), ["hub"])
    offer = next_offer(center)
    assert offer.fetch(SOON).groups["weights"]["w"][-1] == MEGABYTE - 1
    assert offer.fetch(SOON) is offer.fetch(SOON)
    assert not delivery.done()
    offer.accept()
    assert delivery.wait(SOON)["hub"].accepted


@pytest.mark.parametrize("floats", [10, MEGABYTE])
@pytest.mark.parametrize("fetched", [False, True])
def test_a_refused_sender_learns_why(network, floats, fetched):
    center, spokes = network.star("a")
    delivery = spokes["a"].send(message(floats=floats), ["hub"])
    offer = next_offer(center)
    if fetched:
        offer.fetch(SOON)
    offer.refuse("round 1 is over")
    offer.accept()
    assert delivery.wait(SOON) == {"hub": Outcome("refused", "round 1 is over")}


def test_a_transfer_may_be_refused_in_the_middle_and_the_next_message_is_whole(network):
    center, spokes = network.star("a")
    first = spokes["a"].send(message(round=1, floats=8 * MEGABYTE), ["hub"])
    second = spokes["a"].send(message(round=2, floats=8 * MEGABYTE), ["hub"])
    offer = next_offer(center)
    offer.prefetch()
    offer.refuse("changed my mind")
    got = next_offer(center).take(SOON)
    assert torch.equal(got.groups["weights"]["w"], torch.arange(8 * MEGABYTE, dtype=torch.float32))
    assert first.wait(SOON)["hub"].state == "refused"
    assert second.wait(SOON)["hub"].accepted


@pytest.mark.parametrize("floats", [10, MEGABYTE])
def test_a_channel_that_declines_refuses_what_waits_and_what_comes(network, floats):
    center, spokes = network.star("a", "b")
    waiting = spokes["a"].send(message(floats=floats), ["hub"])
    center.decline("the job is over")
    coming = spokes["b"].send(message(floats=floats), ["hub"])
    assert waiting.wait(SOON) == coming.wait(SOON) == {"hub": Outcome("refused", "the job is over")}
    center.send(message(kind="end", floats=floats), ["a"])
    assert next_offer(spokes["a"]).take(SOON).kind == "end"


def test_an_offer_that_was_ended_cannot_be_fetched(network):
    center, spokes = network.star("a")
    spokes["a"].send(message(), ["hub"])
    offer = next_offer(center)
    offer.refuse("no")
    with pytest.raises(ValueError, match="refused before it was fetched"):
        offer.fetch(SOON)


def test_a_prefetched_message_can_be_fetched(network):
    center, spokes = network.star("a", "b")
    for spoke in spokes.values():
        spoke.send(message(floats=MEGABYTE), ["hub"])
    offers = [next_offer(center), next_offer(center)]
    for offer in offers:
        offer.prefetch()
        offer.prefetch()
    assert all(offer.take(SOON).groups["weights"]["w"].numel() == MEGABYTE for offer in offers)


def test_messages_to_an_end_arrive_in_the_order_sent(network):
    center, spokes = network.star("a", "b")
    deliveries = [center.send(message(round=i, floats=1 + 9000 * (i % 3)), spokes) for i in range(60)]
    for channel in spokes.values():
        assert [next_offer(channel).take(SOON).round for _ in range(60)] == list(range(60))
    assert all(outcome.accepted for delivery in deliveries for outcome in delivery.wait(SOON).values())


def test_each_end_answers_for_itself(network):
    center, spokes = network.star("a", "b", "c")
    delivery = center.send(message(floats=MEGABYTE), ["a", "b", "c", "a"])
    next_offer(spokes["a"]).take(SOON)
    next_offer(spokes["b"]).refuse("busy")
    offer = next_offer(spokes["c"])
    missing = ""
    while not missing.endswith("not answered by c"):
        with pytest.raises(WaitTimeout, match="'update' of round 1 on channel 'param'") as caught:
            delivery.wait(0.01)
        missing = str(caught.value)
    offer.accept()
    assert delivery.wait(SOON) == {"a": Outcome("accepted"), "b": Outcome("refused", "busy"), "c": Outcome("accepted")}
    assert delivery.done()


def test_a_message_to_nobody_is_done(network):
    center, _ = network.star("a")
    assert center.send(message(), []).wait(0) == {}


def test_both_directions_carry_large_messages_at_once(network):
    center, spokes = network.star("a", "b")
    floats = 6 * MEGABYTE
    down = center.send(message(floats=floats), spokes)
    up = [spoke.send(message(floats=floats), ["hub"]) for spoke in spokes.values()]
    offers = [next_offer(center), next_offer(center), *(next_offer(spoke) for spoke in spokes.values())]
    for offer in offers:
        offer.prefetch()
    for offer in offers:
        assert offer.take(SOON).groups["weights"]["w"][-1] == floats - 1
    assert all(outcome.accepted for delivery in (down, *up) for outcome in delivery.wait(SOON).values())


def test_a_message_of_64_megabytes_arrives(network):
    exchange_large(network, 64 * MEGABYTE)


@pytest.mark.long
def test_a_message_of_500_megabytes_arrives(network):
    exchange_large(network, 500 * MEGABYTE)


def exchange_large(network, nbytes: int) -> None:
    center, spokes = network.star("a")
    content = torch.arange(nbytes // 8, dtype=torch.int64)
    delivery = center.send(Message("weights", 1, groups={"g": {"w": content}}), ["a"])
    assert torch.equal(next_offer(spokes["a"]).take(120).groups["g"]["w"], content)
    assert delivery.wait(SOON)["a"].accepted


def test_a_packed_message_is_sent_without_another_copy_and_relabelled_for_free(network):
    center, spokes = network.star("a")
    packed = message().packed()
    assert packed.packed() is packed
    other = packed.relabel(kind="global", round=4, scalars={"lr": 0.5})
    assert other.buffer.data_ptr() == packed.buffer.data_ptr()
    center.send(other, ["a"])
    got = next_offer(spokes["a"]).take(SOON)
    assert (got.kind, got.round, dict(got.scalars)) == ("global", 4, {"lr": 0.5})
    assert torch.equal(got.groups["weights"]["w"], torch.arange(10.0))


def test_a_received_message_can_be_passed_on_and_released_at_once(network):
    center, spokes = network.star("a", "b")
    center.send(message(floats=MEGABYTE), ["a"])
    got = next_offer(spokes["a"]).take(SOON)
    back = spokes["a"].send(got.relabel(kind="back"), ["hub"])
    got.release()
    got.release()
    center.send(message(floats=MEGABYTE).relabel(round=2), ["a"])
    overtaking = next_offer(spokes["a"])
    overtaking.prefetch()
    assert torch.equal(next_offer(center).take(SOON).groups["weights"]["w"], torch.arange(MEGABYTE, dtype=torch.float32))
    assert back.wait(SOON)["hub"].accepted
    overtaking.take(SOON)


def test_a_message_filled_in_place_arrives_as_it_was_filled(network):
    center, spokes = network.star("a")
    specs = message(floats=MEGABYTE).specs
    for round in (1, 2, 3):
        sent = center.allocate("weights", round, specs, scalars={"samples": round})
        sent.groups["weights"]["w"].fill_(float(round))
        delivery = center.send(sent, ["a"])
        got = next_offer(spokes["a"]).take(SOON)
        assert (got.kind, got.round, dict(got.scalars), got.specs) == ("weights", round, {"samples": round}, specs)
        assert bool((got.groups["weights"]["w"] == round).all())
        assert delivery.wait(SOON)["a"].accepted


def test_what_lies_between_two_tensors_does_not_travel(network):
    center, spokes = network.star("a")
    groups = {"g": {"odd": torch.ones(100_001, dtype=torch.uint8), "next": torch.ones(100_000)}}
    old = center.allocate("weights", 1, {"g": {"w": message(floats=125_016).specs["weights"]["w"]}})
    old.buffer.fill_(255)
    old.release()
    del old
    center.send(Message("weights", 1, groups=groups), ["a"])
    got = next_offer(spokes["a"]).take(SOON)
    assert got.buffer[100_001:100_032].tolist() == [0] * 31


@given(held=st.lists(st.integers(0, 5), min_size=1, max_size=12))
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=20)
def test_a_received_message_stays_as_it_is_for_as_long_as_it_is_held(network, held):
    # A network for all examples; each leaves it empty.
    if not network.endpoints:
        network.center, network.spokes = network.star("a", "b")
    center, spokes = network.center, network.spokes
    keeping: dict[int, list[Tensor]] = {}
    for now, rounds in enumerate(held):
        sent = center.send(message(floats=20_000, round=now).relabel(scalars={"now": now}), spokes)
        for spoke in spokes.values():
            got = next_offer(spoke).take(SOON)
            back = spoke.allocate("update", now, got.specs)
            torch.add(got.groups["weights"]["w"], now, out=back.groups["weights"]["w"])
            spoke.send(back, ["hub"])
            answer = next_offer(center).take(SOON)
            keeping.setdefault(now + rounds, []).append(answer.groups["weights"]["w"] - 0)
            keeping[now + rounds].append(answer.groups["weights"]["w"])
        assert all(outcome.accepted for outcome in sent.wait(SOON).values())
        for copy, view in zip(*[iter(keeping.pop(now, []))] * 2, strict=True):
            assert torch.equal(copy, view)
    for rest in keeping.values():
        for copy, view in zip(*[iter(rest)] * 2, strict=True):
            assert torch.equal(copy, view)


# ---- several channels, several threads, many peers


def test_one_wait_covers_several_channels_in_order_of_arrival(network):
    hub = network.endpoint("hub")
    up, down = network.host(hub, "top", name="up"), network.host(hub, "a", name="down")
    top = network.join(network.endpoint("top"), hub, name="up")
    up.wait_joined(timeout=SOON)
    low = network.join(network.endpoint("a"), hub, name="down")
    down.wait_joined(timeout=SOON)
    assert [hub.receive([down, up], SOON) for _ in range(2)] == [Joined("up", "top"), Joined("down", "a")]
    for channel in (top, low):
        channel.send(message(), ["hub"])
    events = [hub.receive([up, down], SOON), hub.receive([up, down], SOON)]
    assert {event.channel for event in events} == {"up", "down"}
    with pytest.raises(WaitTimeout, match=r"'up' \(group 'default'\) with top; channel 'down' .* with a$"):
        hub.receive([up, down], 0)


def test_channels_of_another_endpoint_cannot_be_waited_for(network):
    center, spokes = network.star("a")
    with pytest.raises(ValueError, match="channels of this endpoint"):
        network.endpoints[0].receive([center, spokes["a"]], 0)


def test_threads_may_share_a_channel(network):
    center, spokes = network.star("a")
    threads = [threading.Thread(target=center.send, args=(message(round=i), ["a"])) for i in range(16)]
    for thread in threads:
        thread.start()
    assert sorted(next_offer(spokes["a"]).take(SOON).round for _ in threads) == list(range(16))
    for thread in threads:
        thread.join()


def test_hundreds_of_peers_share_one_channel(network):
    names = [f"trainer-{i}" for i in range(300)]
    center, spokes = network.star(*names)
    down = center.send(message(floats=40_000), names)
    up = {}
    for name, spoke in spokes.items():
        got = next_offer(spoke).take(SOON)
        up[name] = spoke.send(got.relabel(scalars={"samples": got.round}), ["hub"])
    assert all(outcome.accepted for outcome in down.wait(SOON).values())
    offers = [next_offer(center) for _ in names]
    assert {offer.header.sender for offer in offers} == set(names)
    for offer in offers:
        offer.take(SOON).release()
    assert all(delivery.wait(SOON)["hub"].accepted for delivery in up.values())


# ---- ends of waits


def test_a_wait_for_an_event_ends_and_names_the_peers(network):
    center, _ = network.star("a", "b")
    with pytest.raises(WaitTimeout, match=r"channel 'param' \(group 'default'\) with a, b"):
        center.receive(timeout=0.01)


@pytest.mark.parametrize("wait", ["receive", "wait_joined", "delivery"])
def test_an_abort_from_another_thread_ends_every_wait(network, wait):
    hub = network.endpoint("hub")
    center = network.host(hub, "a")
    delivery = center.send(message(), ["a"])
    waits: dict[str, Callable[[], object]] = {
        "receive": center.receive,
        "wait_joined": center.wait_joined,
        "delivery": delivery.wait,
    }
    thread, errors = fails_with(waits[wait])
    hub.abort("trainer-3 failed")
    thread.join(SOON)
    assert [str(error) for error in errors] == ["trainer-3 failed"]
    assert isinstance(errors[0], Aborted)
    with pytest.raises(Aborted, match="trainer-3 failed"):
        waits[wait]()


def test_a_closed_endpoint_waits_and_sends_no_more(network):
    center, _ = network.star("a")
    hub = network.endpoints[0]
    hub.close()
    hub.close()
    for action in (center.receive, center.wait_joined, lambda: center.send(message(), ["a"])):
        with pytest.raises(Aborted):
            action()


def test_a_message_waits_for_an_end_that_has_not_joined(network):
    hub = network.endpoint("hub")
    center = network.host(hub, "a")
    deliveries = [center.send(message(round=i), ["a"]) for i in (1, 2)]
    assert not deliveries[0].done()
    spoke = network.join(network.endpoint("a"), hub)
    assert isinstance(spoke.receive(SOON), Joined)
    assert [next_offer(spoke).take(SOON).round for _ in range(2)] == [1, 2]
    assert deliveries[1].wait(SOON)["a"].accepted


def test_a_message_to_an_end_that_leaves_is_lost(network):
    center, spokes = network.star("a", "b")
    delivery = center.send(message(), spokes)
    next_offer(spokes["b"]).take(SOON)
    next_offer(spokes["a"])
    network.endpoints[1].close()
    outcomes = delivery.wait(SOON)
    assert outcomes["a"].state == "lost"
    assert "a left" in outcomes["a"].reason
    assert outcomes["b"].accepted


@pytest.mark.parametrize("floats", [10, MEGABYTE])
def test_an_offer_of_a_sender_that_left_cannot_be_fetched(network, floats):
    center, spokes = network.star("a")
    spokes["a"].send(message(floats=floats), ["hub"])
    offer = next_offer(center)
    network.endpoints[1].close()
    next_left(center)
    with pytest.raises(PeerLost, match="a left") as caught:
        offer.fetch(SOON)
    assert caught.value.end == "a"
    offer.refuse("nobody hears this")


def test_what_was_sent_when_closing_is_lost_not_silent(network):
    hub = network.endpoint("hub")
    delivery = network.host(hub, "a").send(message(), ["a"])
    hub.close()
    assert delivery.done()


# ---- misuse


def test_an_unknown_end_is_a_mistake(network):
    center, _ = network.star("a")
    with pytest.raises(ValueError, match=r"b not on channel 'param' .* ends are a$"):
        center.send(message(), ["a", "b"])
    with pytest.raises(ValueError, match="b not on"):
        center.wait_joined(["b"])


def test_a_released_message_cannot_be_sent(network):
    center, _ = network.star("a")
    packed = message().packed()
    packed.release()
    with pytest.raises(ValueError, match="was released"):
        center.send(packed, ["a"])


def test_a_message_beyond_the_limits_is_not_sent(network):
    center, _ = network.star("a", limits=Limits(max_message_bytes=100))
    with pytest.raises(ProtocolError, match="over max_message_bytes = 100"):
        center.send(message(floats=26), ["a"])


# ---- the gate


class CountingGate:
    """Lets one worker run at a time, and counts how often it was let go."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.releases = 0

    @contextmanager
    def released(self) -> Iterator[None]:
        self.releases += 1
        self.lock.release()
        try:
            yield
        finally:
            self.lock.acquire()


def test_workers_that_share_a_gate_take_turns_without_deadlock(network):
    gate = CountingGate()
    hub, spoke = network.endpoint("hub", gate=gate), network.endpoint("a", gate=gate)
    rounds: list[int] = []

    def serve() -> None:
        with gate.lock:
            center = network.host(hub, "a")
            center.wait_joined(timeout=SOON)
            center.receive(SOON)
            for i in range(20):
                assert center.send(message(round=i, floats=20_000), ["a"]).wait(SOON)["a"].accepted
                rounds.append(next_offer(center).take(SOON).round)

    thread = threading.Thread(target=serve)
    with gate.lock:
        network.host(hub, "a", name="other")
        channel = network.join(spoke, hub)
        thread.start()
        assert isinstance(channel.receive(SOON), Joined)
        for _ in range(20):
            got = next_offer(channel).take(SOON)
            assert channel.send(got, ["hub"]).wait(SOON)["hub"].accepted
    thread.join(SOON)
    assert rounds == list(range(20))
    assert gate.releases > 0
