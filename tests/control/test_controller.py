"""The controller without a network: who is admitted, when workers start, what is refused."""

import json

import pytest

from flame_run.control import events
from flame_run.control.errors import SessionRefused
from flame_run.control.limits import ControlLimits
from flame_run.control.orders import Abort, Gone, Order, Start


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


def test_a_worker_that_is_given_up_is_told_to_everybody_and_refused_from_then_on(hall):
    place = hall(3)
    orders: list[Order] = []
    enter(place, "trainer-0", deliver=orders.append)
    given_up: list[Order] = []
    enter(place, "trainer-1", deliver=given_up.append)
    place.controller.give_up("trainer-1", "it was killed")
    place.controller.give_up("trainer-1", "again")
    assert orders == [Gone("trainer-1", "it was killed")]
    assert given_up == [Abort("it was killed")]
    with pytest.raises(SessionRefused, match="was given up: it was killed"):
        enter(place, "trainer-1")
    later: list[Order] = []
    enter(place, "trainer-2", deliver=later.append)
    assert later == [Gone("trainer-1", "it was killed")]


def test_the_others_start_without_a_worker_that_is_given_up_as_the_last_one_they_waited_for(hall):
    place = hall()
    orders: list[Order] = []
    enter(place, "trainer-0", deliver=orders.append).ready("127.0.0.1:5")
    place.controller.give_up("trainer-1", "it never came")
    assert orders == [Gone("trainer-1", "it never came"), Start({"trainer-0": "127.0.0.1:5"})]
    assert isinstance(place.posted()[-1], events.Started)


def test_a_seat_that_is_vacated_can_be_taken_anew_without_an_event(hall):
    place = hall()
    orders: list[Order] = []
    seat = enter(place, deliver=orders.append)
    place.controller.vacate("trainer-0", "it is started anew")
    assert orders == [Abort("it is started anew")]
    with pytest.raises(SessionRefused, match="after its session ended"):
        seat.state("running")
    enter(place)
    assert [type(event).__name__ for event in place.posted()] == ["Registered", "Registered"]


def test_peers_learn_the_new_address_of_a_worker_that_was_started_anew_and_it_learns_who_is_done(star):
    place = star
    orders: dict[str, list[Order]] = {name: [] for name in ("top-0", "trainer-0", "trainer-1")}
    seats = {name: enter(place, name, deliver=orders[name].append) for name in orders}
    for number, seat in enumerate(seats.values()):
        seat.ready(f"127.0.0.1:{number}")
    seats["trainer-1"].state("completed")
    place.controller.vacate("top-0", "it is started anew")
    anew: list[Order] = []
    enter(place, "top-0", deliver=anew.append).ready("127.0.0.1:9")
    assert orders["trainer-0"][-1] == orders["trainer-1"][-1] == Start({"top-0": "127.0.0.1:9"})
    assert anew == [Gone("trainer-1", "it has completed"), Start({"top-0": "127.0.0.1:9", "trainer-0": "127.0.0.1:1"})]
    seats["trainer-0"].state("completed")
    assert anew[-1] == Gone("trainer-0", "it has completed")


def test_a_session_goes_on_with_its_seat_and_its_reports_count_once(hall):
    place = hall()
    first: list[Order] = []
    second: list[Order] = []
    deliver, other = first.append, second.append
    seat = place.controller.register("trainer-0", place.controller.token, pid=1, host="h", deliver=deliver, session="s")
    assert [seat.expects(number, deliver) for number in (1, 2, 2, 1)] == [True, True, False, False]
    again = place.controller.register("trainer-0", place.controller.token, pid=1, host="h", deliver=other, session="s", again=True)
    assert again is seat
    assert (seat.expects(3, deliver), seat.expects(3, other)) == (False, True)
    with pytest.raises(SessionRefused, match="report 5 after report 3"):
        seat.expects(5, other)
    assert [type(event).__name__ for event in place.posted()] == ["Registered"]


def test_a_broken_connection_is_held_until_it_expires_unless_it_came_back(hall):
    place = hall()
    token, session = place.controller.token, {"pid": 1, "host": "h", "session": "s"}
    orders: list[list[Order]] = [[], [], []]
    deliveries = [each.append for each in orders]
    seat = place.controller.register("trainer-0", token, deliver=deliveries[0], **session)
    number = place.controller.detach(seat, deliveries[0])
    place.controller.register("trainer-0", token, deliver=deliveries[1], again=True, **session)
    place.controller.expire(seat, number, "it did not come back")
    assert place.controller.detach(seat, deliveries[0]) == 0
    second = place.controller.detach(seat, deliveries[1])
    place.controller.expire(seat, number, "the first break")
    assert [type(event).__name__ for event in place.posted()] == ["Registered"]
    place.controller.expire(seat, second, "it did not come back")
    assert place.posted() == [events.SessionLost(worker="trainer-0", reason="it did not come back", time=1000.0)]
    with pytest.raises(SessionRefused, match="after its seat was given up"):
        place.controller.register("trainer-0", token, deliver=deliveries[2], again=True, **session)
