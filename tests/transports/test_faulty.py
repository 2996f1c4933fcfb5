"""The network that goes wrong as planned: what a test of a role can rely on."""

import threading
from itertools import count

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from transports.base import Arrived, Channel, ChannelSpec, Joined, Left, Offer
from transports.errors import PeerLost, ProtocolError, WaitTimeout
from transports.faulty import BREAKS, KINDS, Chance, Fault, FaultKind, FaultyHub, Place, Script
from transports.inproc import InprocEndpoint
from transports.message import Message

SOON = 30.0


def weights(round: int = 1, floats: int = 10) -> Message:
    return Message("update", round, groups={"g": {"w": torch.arange(floats, dtype=torch.float32) + round}})


def pair(hub: FaultyHub) -> tuple[Channel, Channel]:
    """Two workers that have joined, with no event waiting."""
    root, trainer = InprocEndpoint("root", hub), InprocEndpoint("trainer", hub)
    center = root.open(ChannelSpec(name="param", group="default", ends=("trainer",)))
    spoke = trainer.open(ChannelSpec(name="param", group="default", ends=("root",)))
    assert isinstance(center.receive(SOON), Joined)
    assert isinstance(spoke.receive(SOON), Joined)
    return center, spoke


def planned(*faults: Fault | FaultKind | None) -> tuple[FaultyHub, Channel, Channel]:
    """What happens to the first messages of the trainer."""
    named = [Fault(fault) if isinstance(fault, str) else fault for fault in faults]
    script = {Place("param", "trainer", "root", i): fault for i, fault in enumerate(named, 1) if fault is not None}
    hub = FaultyHub(Script(script))
    return hub, *pair(hub)


def next_offer(channel: Channel) -> Offer:
    event = channel.receive(0)
    assert isinstance(event, Arrived)
    return event.offer


def rounds(channel: Channel) -> list[int]:
    """Rounds of the messages that wait, which are taken."""
    found: list[int] = []
    while True:
        try:
            offer = next_offer(channel)
        except WaitTimeout:
            return found
        found.append(offer.take(0).round)


def test_a_delayed_message_and_those_behind_it_arrive_when_they_are_released():
    hub, center, spoke = planned(None, "delay")
    deliveries = [spoke.send(weights(round), ["root"]) for round in (1, 2, 3)]
    assert rounds(center) == [1]
    assert hub.held == 2
    assert not deliveries[1].done()
    hub.release()
    assert rounds(center) == [2, 3]
    assert all(delivery.wait(0)["root"].accepted for delivery in deliveries)


def test_a_delayed_message_does_not_hold_up_the_other_direction():
    _, center, spoke = planned("delay")
    spoke.send(weights(), ["root"])
    center.send(weights(5), ["trainer"])
    assert rounds(spoke) == [5]


def test_what_is_held_back_goes_on_when_every_worker_waits():
    _, center, spoke = planned("delay")
    delivery = spoke.send(weights(), ["root"])
    thread = threading.Thread(target=delivery.wait, args=(SOON,))
    thread.start()
    event = center.receive(SOON)
    assert isinstance(event, Arrived)
    event.offer.take(SOON)
    thread.join()


def test_a_message_is_overtaken_by_the_next_one():
    hub, center, spoke = planned("reorder")
    spoke.send(weights(1), ["root"])
    assert rounds(center) == []
    spoke.send(weights(2), ["root"])
    assert rounds(center) == [2, 1]
    assert hub.held == 0


def test_a_dropped_message_is_answered_by_nobody_until_the_connection_breaks():
    hub, center, spoke = planned("drop")
    delivery = spoke.send(weights(), ["root"])
    spoke.send(weights(2), ["root"])
    assert rounds(center) == [2]
    assert not delivery.done()
    hub.sever("root", "trainer")
    assert delivery.wait(0)["root"].state == "lost"


def test_a_duplicate_is_offered_twice_and_answered_once():
    _, center, spoke = planned("duplicate")
    delivery = spoke.send(weights(), ["root"])
    first, second = next_offer(center), next_offer(center)
    assert first.header == second.header
    first.take(0)
    second.refuse("seen before")
    assert delivery.wait(0)["root"].accepted


@pytest.mark.parametrize("floats", [10, 100_000])
def test_a_corrupt_payload_is_found_refused_and_counted(floats):
    _, center, spoke = planned("corrupt")
    delivery = spoke.send(weights(floats=floats), ["root"])
    offer = next_offer(center)
    with pytest.raises(ProtocolError, match="corrupt, its checksum is"):
        offer.take(0)
    assert delivery.wait(0)["root"].state == "refused"
    assert "checksum" in delivery.wait(0)["root"].reason
    spoke.send(weights(2), ["root"])
    assert rounds(center) == [2]


@pytest.mark.parametrize(("kind", "message"), [("corrupt", Message("skip", 1)), ("corrupt_offer", weights(1))])
def test_a_corrupt_offer_breaks_the_connection_before_anybody_sees_it(kind, message):
    _, center, spoke = planned(kind)
    outcome = spoke.send(message, ["root"]).wait(0)["root"]
    assert outcome.state == "lost"
    for channel in (center, spoke):
        left = channel.receive(0)
        assert isinstance(left, Left)
        assert "checksum" in left.reason
        assert events(channel) == ["Joined"]
    assert "checksum" in outcome.reason
    spoke.send(Message("skip", 2), ["root"])
    assert rounds(center) == [2]


def events(channel: Channel) -> list[str]:
    """Kinds of the events that wait; offers are taken where that still goes."""
    found = []
    try:
        while True:
            event = channel.receive(0)
            found.append(type(event).__name__)
            if isinstance(event, Arrived):
                try:
                    event.offer.take(0)
                except PeerLost:
                    found[-1] = "Arrived and lost"
    except WaitTimeout:
        return found


@pytest.mark.parametrize(
    ("kind", "seen", "outcome"),
    [
        ("break_before_offer", ["Left", "Joined"], "lost"),
        ("break_after_offer", ["Left", "Joined"], "lost"),
        ("break_before_fetch", ["Arrived and lost", "Left", "Joined"], "lost"),
        ("break_after_fetch", ["Arrived", "Left", "Joined"], "lost"),
        ("break_before_accept", ["Arrived", "Left", "Joined"], "lost"),
        ("break_after_accept", ["Arrived", "Left", "Joined"], "accepted"),
    ],
)
def test_a_connection_breaks_at_each_moment_of_a_message_and_is_back(kind, seen, outcome):
    hub, center, spoke = planned(kind)
    delivery = spoke.send(weights(), ["root"])
    assert events(center) == seen
    assert delivery.wait(0)["root"].state == outcome
    assert events(spoke) == ["Left", "Joined"]
    spoke.send(weights(2), ["root"])
    assert rounds(center) == [2]
    assert [fault.kind for _, fault in hub.happened] == [kind]


def test_a_connection_that_broke_for_longer_is_back_when_it_is_mended():
    hub, center, spoke = planned(Fault("break_after_offer", mend=False))
    spoke.send(weights(), ["root"])
    left = center.receive(0)
    assert isinstance(left, Left)
    assert (left.clean, left.final) == (False, False)
    assert "as planned: break_after_offer" in left.reason
    assert events(spoke) == ["Left"]
    hub.mend("root", "trainer")
    assert events(center) == events(spoke) == ["Joined"]


def test_a_message_held_when_the_connection_breaks_is_lost():
    hub, center, spoke = planned("delay")
    delivery = spoke.send(weights(), ["root"])
    hub.sever("trainer", "root")
    hub.mend("trainer", "root")
    assert delivery.wait(0)["root"].state == "lost"
    hub.release()
    assert events(center) == ["Left", "Joined"]


def test_messages_are_numbered_over_all_connections_and_each_pair_for_itself():
    _, center, spoke = planned("break_after_accept", "corrupt")
    for number in count(1):
        delivery = spoke.send(weights(number), ["root"])
        center.send(weights(), ["trainer"])
        if number == 2:
            break
        events(center)
        events(spoke)
    with pytest.raises(ProtocolError):
        next_offer(center).take(0)
    assert delivery.wait(0)["root"].state == "refused"
    assert rounds(spoke) == [1]


def test_a_plan_drawn_by_lot_is_the_same_for_the_same_seed_and_happens_about_as_often_as_told():
    places = [Place("param", f"trainer-{i % 10}", "root", i // 10 + 1) for i in range(5000)]
    drawn = [Chance(7, 0.2).fault(place) for place in places]
    assert drawn == [Chance(7, 0.2).fault(place) for place in places]
    assert drawn != [Chance(8, 0.2).fault(place) for place in places]
    found = [fault.kind for fault in drawn if fault is not None]
    assert 800 < len(found) < 1200
    assert set(found) == set(KINDS) - {"drop"}
    assert Chance(7, 1.0, most=3).fault(Place("param", "a", "b", 4)) is None


@settings(deadline=None, max_examples=100)
@given(seed=st.integers(0, 2**32), breaks_only=st.booleans())
def test_a_sender_that_tries_again_and_a_receiver_that_counts_rounds_once_get_every_message_across(seed, breaks_only):
    hub = FaultyHub(Chance(seed, 0.4, BREAKS if breaks_only else tuple(kind for kind in KINDS if kind != "drop")))
    center, spoke = pair(hub)
    taken: list[int] = []
    for round in range(1, 11):
        while round not in taken:
            delivery = spoke.send(weights(round), ["root"])
            hub.release()
            collect(center, taken)
            assert delivery.done()
            events(spoke)
    assert taken == list(range(1, 11))


def collect(channel: Channel, taken: list[int]) -> None:
    """Take what waits, each round once."""
    try:
        while True:
            event = channel.receive(0)
            if not isinstance(event, Arrived):
                continue
            if event.offer.header.round in taken:
                event.offer.refuse("seen before")
                continue
            try:
                taken.append(event.offer.take(0).round)
            except (PeerLost, ProtocolError):
                continue
    except WaitTimeout:
        return
