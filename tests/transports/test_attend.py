from tests.transports.conftest import Network
from transports.base import Arrived
from transports.message import Message


def test_who_waits_for_an_answer_still_hears_everybody_else(network: Network) -> None:
    center, channels = network.star("a", "b")
    hub = network.endpoints[0]
    delivery = center.send(Message("question", 1), ["a"])
    asked = channels["a"].receive(30)
    assert isinstance(asked, Arrived)
    channels["b"].send(Message("late", 1), ["hub"])
    event = hub.attend([center], delivery)
    assert isinstance(event, Arrived)
    assert event.end == "b"
    event.offer.refuse("too late")
    asked.offer.accept()
    assert hub.attend([center], delivery) is None
    assert delivery.wait(0)["a"].accepted


def test_an_answer_ends_the_wait_though_nobody_else_has_anything_to_say(network: Network) -> None:
    center, channels = network.star("a")
    delivery = center.send(Message("question", 1), ["a"])
    asked = channels["a"].receive(30)
    assert isinstance(asked, Arrived)
    asked.offer.refuse("no")
    assert network.endpoints[0].attend([center], delivery) is None
    assert delivery.wait(0)["a"].reason == "no"
