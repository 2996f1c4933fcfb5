"""Ends that are away and come back, and ends that are given up, whatever carries the messages."""

import threading

import pytest
import torch

from transports.base import Arrived, Channel, Joined, Left, Offer, Outcome
from transports.errors import PeerLost, TransportError, WaitTimeout
from transports.message import Message

SOON = 30.0
ELSEWHERE = "127.0.0.1:9"


def message(kind: str = "update", round: int = 1, *, floats: int = 10) -> Message:
    return Message(kind, round, groups={"weights": {"w": torch.arange(floats, dtype=torch.float32)}})


def next_offer(channel: Channel) -> Offer:
    event = channel.receive(SOON)
    assert isinstance(event, Arrived)
    return event.offer


def next_left(channel: Channel) -> Left:
    event = channel.receive(SOON)
    assert isinstance(event, Left)
    return event


def nothing_more(channel: Channel) -> None:
    with pytest.raises(WaitTimeout, match="nothing happened"):
        channel.receive(0)


def exchange(here: Channel, there: Channel) -> None:
    """A message there and one back, each under the name of the one end of the other."""
    for sender, receiver in ((here, there), (there, here)):
        (end,) = receiver.spec.ends
        (to,) = sender.spec.ends
        delivery = sender.send(message(floats=100_000), [to])
        offer = next_offer(receiver)
        assert offer.header.sender == end
        assert offer.take(SOON).groups["weights"]["w"][-1] == 99_999
        assert delivery.wait(SOON)[to].accepted


@pytest.fixture
def pair(network):
    """A hub and its one end, connected in a way that can be parted."""
    hub = network.endpoint("hub")
    center = network.host(hub, "a")
    network.cabled(hub)
    spoke = network.join(network.endpoint("a"), hub)
    assert center.receive(SOON) == Joined("param", "a")
    assert spoke.receive(SOON) == Joined("param", "hub")
    return center, spoke


# ---- away


def test_both_sides_of_a_broken_connection_are_away_until_it_is_back(network, pair):
    center, spoke = pair
    for _ in range(3):
        network.part(*network.endpoints)
        for channel, end in ((center, "a"), (spoke, "hub")):
            left = next_left(channel)
            assert (left.end, left.clean, left.final) == (end, False, False)
            assert channel.joined == frozenset()
        network.reunite(*network.endpoints)
        assert center.receive(SOON) == Joined("param", "a")
        assert spoke.receive(SOON) == Joined("param", "hub")
        exchange(center, spoke)


def test_what_was_under_way_when_the_connection_broke_is_lost_and_not_sent_again(network, pair):
    center, spoke = pair
    down = center.send(message(floats=100_000), ["a"])
    up = spoke.send(message(round=7), ["hub"])
    offer = next_offer(spoke)
    network.part(*network.endpoints)
    (lost,) = down.wait(SOON).values()
    assert lost.state == "lost"
    assert "connection broke" in lost.reason
    assert up.wait(SOON)["hub"].state == "lost"
    assert not next_left(spoke).final
    with pytest.raises(PeerLost, match="hub: "):
        offer.fetch(SOON)
    network.reunite(*network.endpoints)
    center.wait_joined(timeout=SOON)
    spoke.wait_joined(timeout=SOON)
    spoke.send(message(round=8), ["hub"])
    event = center.receive(SOON)
    while not (isinstance(event, Arrived) and event.offer.header.round == 8):
        event = center.receive(SOON)
    event.offer.take(SOON)
    nothing_more(center)
    assert spoke.receive(SOON) == Joined("param", "hub")
    nothing_more(spoke)


def test_a_message_to_an_end_that_is_away_is_lost_at_once(network, pair):
    center, spoke = pair
    network.part(*network.endpoints)
    reason = next_left(center).reason
    assert center.send(message(), ["a"]).wait(SOON) == {"a": Outcome("lost", reason)}
    next_left(spoke)
    assert spoke.send(message(), ["hub"]).wait(SOON)["hub"].state == "lost"


def test_an_end_that_is_away_can_be_waited_for(network, pair):
    center, spoke = pair
    network.part(*network.endpoints)
    next_left(center)
    next_left(spoke)
    with pytest.raises(WaitTimeout, match=r"these have not joined: a \(left: "):
        center.wait_joined(timeout=0)
    network.reunite(*network.endpoints)
    center.wait_joined(timeout=SOON)
    spoke.wait_joined(timeout=SOON)


def test_an_offer_that_nobody_received_before_its_sender_went_away_is_withdrawn(network, pair):
    center, spoke = pair
    for round in (1, 2):
        spoke.send(message(round=round), ["hub"])
    for round in range(3, 40):
        spoke.send(Message("end", round), ["hub"])
    center.mailbox.wait_until(lambda: len(center.events) == 39 or None, SOON, lambda: "the offers did not arrive")
    network.part(*network.endpoints)
    center.mailbox.wait_until(lambda: not center.joined or None, SOON, lambda: "the connection did not break")
    rounds = []
    while isinstance(event := center.receive(SOON), Arrived):
        rounds.append(event.offer.header.round)
    assert isinstance(event, Left)
    # A few without a payload stay: a goodbye is understood although the connection broke after it.
    assert rounds == list(range(24, 40))


def test_a_goodbye_is_final_and_a_failure_is_not(network):
    center, _ = network.star("a", "b")
    network.endpoints[1].close()
    assert next_left(center).final
    network.endpoints[2].abort("out of memory")
    network.endpoints[2].close()
    assert not next_left(center).final


def test_a_worker_that_failed_is_replaced_by_one_of_its_name(network, pair):
    center, _ = pair
    network.endpoints[1].abort("killed")
    network.endpoints[1].close()
    assert not next_left(center).final
    again = network.join(network.endpoint("a"), network.endpoints[0])
    assert center.receive(SOON) == Joined("param", "a")
    assert again.receive(SOON) == Joined("param", "hub")
    exchange(center, again)


def test_a_host_that_was_started_anew_is_found_at_its_new_address(network, pair):
    _, spoke = pair
    old, worker = network.endpoints
    old.abort("killed")
    old.close()
    assert not next_left(spoke).final
    new = network.endpoint("hub")
    center = network.host(new, "a")
    network.cabled(new)
    worker.connect({"hub": network.way(new)})
    assert spoke.receive(SOON) == Joined("param", "hub")
    assert center.receive(SOON) == Joined("param", "a")
    exchange(center, spoke)


def test_an_address_that_is_known_changes_nothing(network, pair):
    center, spoke = pair
    hub, worker = network.endpoints
    for _ in range(2):
        hub.connect({"a": ELSEWHERE})
        worker.connect({"hub": network.way(hub)})
    exchange(center, spoke)
    nothing_more(center)
    nothing_more(spoke)


# ---- gone


@pytest.mark.parametrize("side", ["host", "dialler"])
def test_an_end_that_is_forgotten_while_connected_leaves_once_and_for_good(network, pair, side):
    center, spoke = pair
    (mine, me), (theirs, _) = ((center, "hub"), (spoke, "a")) if side == "host" else ((spoke, "a"), (center, "hub"))
    (end,) = mine.spec.ends
    endpoint = network.endpoints[0 if side == "host" else 1]
    delivery = mine.send(message(), [end])
    next_offer(theirs)
    endpoint.forget(end, "its machine burnt down")
    endpoint.forget(end, "its machine burnt down")
    assert next_left(mine) == Left("param", end, "its machine burnt down", clean=False, final=True)
    assert delivery.wait(SOON) == {end: Outcome("lost", "its machine burnt down")}
    assert mine.send(message(), [end]).wait(SOON)[end].state == "lost"
    with pytest.raises(PeerLost, match=f"^{end}: its machine burnt down$"):
        mine.wait_joined(timeout=SOON)
    left = next_left(theirs)
    assert (left.end, left.clean) == (me, False)
    nothing_more(mine)


def test_an_end_that_is_forgotten_while_it_is_away_is_gone(network, pair):
    center, spoke = pair
    network.part(*network.endpoints)
    assert not next_left(center).final
    assert not next_left(spoke).final
    for endpoint, channel, end in zip(network.endpoints, (center, spoke), ("a", "hub"), strict=True):
        endpoint.forget(end, "the site is closed")
        assert next_left(channel) == Left("param", end, "the site is closed", clean=False, final=True)
        with pytest.raises(PeerLost, match="the site is closed"):
            channel.wait_joined(timeout=SOON)
        assert channel.send(message(), [end]).wait(SOON) == {end: Outcome("lost", "the site is closed")}
    network.reunite(*network.endpoints)
    nothing_more(center)
    nothing_more(spoke)


def test_a_wait_for_an_end_that_never_came_ends_when_it_is_forgotten(network):
    hub = network.endpoint("hub")
    center = network.host(hub, "a", "b")
    waiting = center.send(message(), ["b"])
    errors: list[TransportError] = []

    def wait() -> None:
        try:
            center.wait_joined(timeout=SOON)
        except TransportError as error:
            errors.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    hub.forget("b", "it was never started")
    thread.join()
    assert [str(error) for error in errors] == ["b: it was never started"]
    assert waiting.wait(SOON) == {"b": Outcome("lost", "it was never started")}
    assert next_left(center) == Left("param", "b", "it was never started", clean=False, final=True)
    network.join(network.endpoint("a"), hub)
    assert center.receive(SOON) == Joined("param", "a")


def test_an_end_that_was_forgotten_before_the_channel_is_open_is_gone_from_the_start(network):
    hub = network.endpoint("hub")
    hub.forget("a", "lost before")
    hub.forget("somebody who is on no channel", "whatever")
    center = network.host(hub, "a", "b")
    assert next_left(center) == Left("param", "a", "lost before", clean=False, final=True)
    with pytest.raises(PeerLost, match="a: lost before"):
        center.wait_joined(timeout=SOON)
    nothing_more(center)


def test_an_end_that_said_goodbye_leaves_no_second_time_when_it_is_forgotten(network):
    center, _ = network.star("a")
    network.endpoints[1].close()
    assert next_left(center).clean
    network.endpoints[0].forget("a", "it has ended")

    def wait_until_known() -> None:
        while True:  # it came, so nobody waits for it; that it is forgotten is known a moment later
            center.wait_joined(timeout=SOON)

    with pytest.raises(PeerLost, match="it has ended"):
        wait_until_known()
    nothing_more(center)


def test_a_forgotten_worker_is_not_let_in(network, pair):
    center, _ = pair
    hub = network.endpoints[0]
    network.endpoints[1].close()
    hub.forget("a", "excluded")
    assert next_left(center).end == "a"
    again = network.join(network.endpoint("a"), hub)
    with pytest.raises(TransportError):
        again.wait_joined(timeout=0.2)
    assert center.joined == frozenset()
    nothing_more(center)


def test_a_forgotten_worker_that_was_started_anew_is_let_in(network, pair):
    center, _ = pair
    hub = network.endpoints[0]
    network.endpoints[1].close()
    hub.forget("a", "killed")
    assert next_left(center).end == "a"
    hub.connect({"a": ELSEWHERE})
    again = network.join(network.endpoint("a"), hub)
    assert center.receive(SOON) == Joined("param", "a")
    assert again.receive(SOON) == Joined("param", "hub")
    exchange(center, again)


def test_a_forgotten_host_that_was_started_anew_is_dialled(network, pair):
    _, spoke = pair
    old, worker = network.endpoints
    old.close()
    worker.forget("hub", "killed")
    assert next_left(spoke).end == "hub"
    new = network.endpoint("hub")
    center = network.host(new, "a")
    network.cabled(new)
    worker.connect({"hub": network.way(new)})
    assert spoke.receive(SOON) == Joined("param", "hub")
    assert center.receive(SOON) == Joined("param", "a")
    exchange(center, spoke)


def test_forgetting_one_end_leaves_the_others_alone(network):
    center, spokes = network.star("a", "b")
    delivery = center.send(message(floats=100_000), ["a", "b"])
    offer = next_offer(spokes["b"])
    network.endpoints[0].forget("a", "gone")
    offer.take(SOON)
    assert {end: outcome.state for end, outcome in delivery.wait(SOON).items()} == {"a": "lost", "b": "accepted"}
    assert center.joined == {"b"}


def test_all_channels_with_a_forgotten_end_know_it(network):
    hub, other = network.endpoint("hub"), network.endpoint("a")
    channels = [network.host(hub, "a", name=name) for name in ("up", "down")]
    for name in ("up", "down"):
        network.join(other, hub, name=name)
    for channel in channels:
        assert isinstance(channel.receive(SOON), Joined)
    hub.forget("a", "gone")
    assert [next_left(channel).final for channel in channels] == [True, True]
