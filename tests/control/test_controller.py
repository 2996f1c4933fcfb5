"""The controller without a network: who is admitted, when workers start, what is refused."""

import json

import pytest

from flame_run.control import events
from flame_run.control.controller import Abort, Order, Start
from flame_run.control.errors import SessionRefused
from flame_run.control.limits import ControlLimits


def enter(hall, worker="trainer-0", token=None, deliver=lambda order: None):
    return hall.controller.register(worker, token or hall.controller.token, pid=7, host="here", deliver=deliver)


def test_a_registered_worker_gets_its_part_and_is_announced(hall):
    place = hall()
    assert enter(place).part == {"worker": "trainer-0"}
    assert place.posted() == [events.Registered(worker="trainer-0", pid=7, host="here", time=1000.0)]


@pytest.mark.parametrize(
    ("worker", "token", "kind", "words"),
    [
        ("trainer-0", "wrong", "token", "no valid job token"),
        ("trainer-9", None, "name", "its workers are trainer-0, trainer-1"),
        ("trainer-1", None, "taken", "registered already and alive"),
    ],
)
def test_a_stranger_is_refused_counted_and_logged(hall, caplog, worker, token, kind, words):  # noqa: PLR0917 - what pytest fills in
    place = hall()
    enter(place, "trainer-1")
    with pytest.raises(SessionRefused, match=words) as refusal:
        enter(place, worker, token)
    assert refusal.value.kind == kind
    assert place.controller.refusals == {kind: 1}
    assert words in caplog.text


def test_a_token_of_other_characters_is_refused_like_any_wrong_one(hall):
    with pytest.raises(SessionRefused):
        enter(hall(), token="ä€")


def test_workers_start_together_once_the_last_one_is_ready(hall):
    place = hall()
    orders: dict[str, list[Order]] = {"trainer-0": [], "trainer-1": []}
    first, second = (enter(place, name, deliver=orders[name].append) for name in orders)
    first.ready("127.0.0.1:5")
    assert orders == {"trainer-0": [], "trainer-1": []}
    second.ready(None)
    start = Start({"trainer-0": "127.0.0.1:5"})
    assert orders == {"trainer-0": [start], "trainer-1": [start]}
    assert [type(event).__name__ for event in place.posted()][-2:] == ["Ready", "Started"]


def test_a_worker_that_left_before_the_start_has_to_be_ready_again(hall):
    place = hall()
    orders: list[Order] = []
    first = enter(place, "trainer-0")
    first.ready(None)
    first.lost("gone")
    enter(place, "trainer-1", deliver=orders.append).ready(None)
    assert orders == []
    enter(place, "trainer-0").ready(None)
    assert orders == [Start({})]


def test_a_worker_that_comes_back_after_the_start_is_started_alone(hall):
    place = hall()
    others: list[Order] = []
    mine: list[Order] = []
    first = enter(place, "trainer-0")
    first.ready(None)
    enter(place, "trainer-1", deliver=others.append).ready(None)
    first.lost("gone")
    enter(place, "trainer-0", deliver=mine.append).ready("127.0.0.1:6")
    assert mine == [Start({"trainer-0": "127.0.0.1:6"})]
    assert len(others) == 1


def test_an_abort_reaches_every_session_and_later_ones_are_refused(hall):
    place = hall()
    orders: list[Order] = []
    enter(place, "trainer-0", deliver=orders.append)
    place.controller.abort("enough")
    place.controller.abort("a second reason")
    assert orders == [Abort("enough")]
    with pytest.raises(SessionRefused, match="enough"):
        enter(place, "trainer-1")


def test_one_worker_can_be_stopped(hall):
    place = hall()
    mine: list[Order] = []
    other: list[Order] = []
    enter(place, "trainer-0", deliver=mine.append)
    enter(place, "trainer-1", deliver=other.append)
    place.controller.stop_worker("trainer-0", "replaced")
    place.controller.stop_worker("trainer-9", "nobody")
    assert (mine, other) == ([Abort("replaced")], [])


def test_a_session_is_lost_once_and_its_name_is_free_again(hall):
    place = hall()
    seat = enter(place)
    seat.lost("broken")
    seat.lost("broken again")
    seat.goodbye()
    assert place.posted()[1:] == [events.SessionLost(worker="trainer-0", reason="broken", time=1000.0)]
    assert enter(place).worker == "trainer-0"


def test_what_an_ended_session_reports_is_refused(hall):
    place = hall()
    seat = enter(place)
    seat.goodbye()
    with pytest.raises(SessionRefused, match="after its session ended"):
        seat.metrics(1, {"loss": 1.0}, 5.0)
    assert place.controller.refusals == {"gone": 1}


@pytest.mark.parametrize(
    "report",
    [
        lambda seat: seat.state("starting"),
        lambda seat: seat.state("running", round_=0),
        lambda seat: seat.metrics(0, {"loss": 1.0}, 5.0),
        lambda seat: seat.metrics(1, {"": 1.0}, 5.0),
        lambda seat: seat.metrics(1, {"x" * 300: 1.0}, 5.0),
        lambda seat: seat.metrics(1, {"a": 1.0, "b": 1.0, "c": 1.0}, 5.0),
        lambda seat: seat.ready("x" * 300),
    ],
)
def test_a_value_that_cannot_be_is_refused(hall, report):
    place = hall(limits=ControlLimits(max_metrics=2))
    with pytest.raises(SessionRefused) as refusal:
        report(enter(place))
    assert refusal.value.kind == "malformed"
    assert len(place.posted()) == 1


def test_a_long_error_is_cut_in_the_middle(hall):
    place = hall(limits=ControlLimits(max_error=20))
    enter(place).state("failed", error="begin" + "x" * 1000 + "end")
    error = place.posted()[-1].error
    assert error.startswith("begin")
    assert error.endswith("end")
    assert "988 characters left out" in error


def test_events_are_plain_values_that_json_can_say(hall):
    place = hall()
    seat = enter(place)
    seat.result({"metrics": {"loss": 0.5}})
    assert json.dumps(place.posted()[-1].result) == '{"metrics": {"loss": 0.5}}'
