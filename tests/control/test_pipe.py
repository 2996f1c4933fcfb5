"""Sessions of many workers over one Unix socket per process: order, size, and what ends one of them alone."""

import queue
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest

from flame_run.control import events
from flame_run.control.controller import Controller
from flame_run.control.errors import ConnectionLost, SessionRefused
from flame_run.control.limits import ControlLimits
from flame_run.control.pipe import Pipe


def test_two_hundred_sessions_over_one_pipe_start_together_and_every_report_arrives_in_order(hall, pipe_to):
    count, reports = 200, 20
    place = hall(count)
    pipe = pipe_to(place)
    sessions = [pipe.session(f"trainer-{index}") for index in range(count)]
    for index, session in enumerate(sessions):
        assert session.open(30) == {"worker": f"trainer-{index}"}
        session.ready(f"127.0.0.1:{index}")
    assert all(len(session.wait_start(30)) == count for session in sessions)

    def work(session):
        for number in range(reports):
            session.state("running", round_=number + 1)
            session.metrics(number + 1, {"n": number})
        session.state("completed")
        session.close()

    with ThreadPoolExecutor(20) as pool:
        list(pool.map(work, sessions))
    posted = place.posted()
    for index in range(count):
        mine = [event for event in posted if getattr(event, "worker", None) == f"trainer-{index}"]
        said = [event.values["n"] for event in mine if isinstance(event, events.MetricsReported)]
        assert said == list(range(reports))
        assert [event.round for event in mine if isinstance(event, events.StateChanged)] == [*range(1, reports + 1), None]
        assert isinstance(mine[-1], events.SessionClosed)


def test_a_controller_that_is_slow_holds_up_nobody_who_reports_and_gets_everything(hall, listen):
    taken: queue.SimpleQueue[Any] = queue.SimpleQueue()
    go_on = threading.Event()

    def post(event):
        if isinstance(event, events.ResultReported):
            assert go_on.wait(30)
        taken.put(event)

    place = hall()
    place.controller = Controller(place.controller._plan, part=lambda name: {"worker": name}, post=post)
    pipe = Pipe(listen(place).address, place.controller.token, timeout=10)
    session = pipe.session("trainer-0")
    session.open(10)
    for number in range(10):
        session.result({"n": number, "x": "y" * 2**20})
    go_on.set()
    session.close(30)
    pipe.close()
    assert isinstance(taken.get(timeout=10), events.Registered)
    assert [taken.get(timeout=10).result["n"] for _ in range(10)] == list(range(10))


def test_a_part_larger_than_the_socket_holds_comes_whole(hall, listen):
    place = hall()
    part = {"x": "y" * (5 * 2**20)}
    place.controller = Controller(place.controller._plan, part=lambda name: part, post=place.events.put)
    pipe = Pipe(listen(place).address, place.controller.token, timeout=10)
    with pipe.session("trainer-0") as session:
        assert session.open(30) == part
    pipe.close()


def test_closing_the_pipe_loses_the_sessions_that_have_not_said_goodbye(hall, pipe_to, noticed):
    place, notice = hall(), noticed()
    pipe = pipe_to(place)
    session, done = pipe.session("trainer-0"), pipe.session("trainer-1")
    session.on_abort = notice
    session.open(10)
    done.open(10)
    session.metrics(1, {"loss": 1.0})
    done.close()
    pipe.close()
    pipe.close()
    assert notice.wait() == [f"the pipe to the controller at {pipe.address} was closed"]
    lost = place.next(events.SessionLost)
    assert (lost.worker, lost.reason) == ("trainer-0", "the connection of its process ended without a goodbye")
    assert done.aborted is None
    with pytest.raises(ConnectionLost, match="was closed"):
        session.close()


def test_a_report_over_the_limit_is_refused_where_it_is_made(hall, listen):
    place = hall()
    pipe = Pipe(listen(place).address, place.controller.token, timeout=10, limits=ControlLimits(max_report_bytes=100))
    with pipe.session("trainer-0") as session:
        session.open(10)
        with pytest.raises(SessionRefused, match="cannot report"):
            session.result({"x": "y" * 200})
    pipe.close()


def test_a_session_that_says_what_cannot_be_ends_alone(hall, pipe_to, noticed):
    place, notice = hall(), noticed()
    pipe = pipe_to(place)
    session, other = pipe.session("trainer-0"), pipe.session("trainer-1")
    session.on_abort = notice
    for each in (session, other):
        each.open(10)
    session.metrics(1, {"": 1.0})
    session.metrics(2, {"loss": 1.0})
    assert "trainer-0 sent a metric without a name" in notice.wait()[0]
    assert "a metric without a name" in place.next(events.SessionLost).reason
    with pytest.raises(SessionRefused):
        session.close()
    other.state("completed")
    other.close()
    assert [type(event).__name__ for event in place.posted()] == ["StateChanged", "SessionClosed"]
    assert place.controller.refusals == {"malformed": 1}


def test_a_worker_whose_seat_was_vacated_is_told_alone_and_its_name_is_free_on_the_same_pipe(hall, pipe_to, noticed):
    place, notice = hall(), noticed()
    pipe = pipe_to(place)
    first, other = pipe.session("trainer-0"), pipe.session("trainer-1")
    first.on_abort = notice
    for each in (first, other):
        each.open(10)
    place.controller.vacate("trainer-0", "it is started anew")
    assert notice.wait() == ["it is started anew"]
    first.state("terminated")
    with pipe.session("trainer-0") as again:
        again.open(10)
        again.state("completed")
    with pytest.raises(SessionRefused, match="after its session ended"):
        first.close()
    other.close()
    names = [type(event).__name__ for event in place.posted()]
    assert names == ["Registered", "Registered", "Registered", "StateChanged", "SessionClosed", "SessionClosed"]


class CountingGate:
    """A gate that remembers who was let out, and whether it came back."""

    def __init__(self) -> None:
        self.out = 0
        self.waits = 0

    @contextmanager
    def released(self) -> Iterator[None]:
        self.out += 1
        self.waits += 1
        try:
            yield
        finally:
            self.out -= 1


def test_others_may_run_while_a_worker_waits_for_the_controller(hall, pipe_to):
    place, gate = hall(1), CountingGate()
    with pipe_to(place).session("trainer-0", gate=gate) as session:
        session.open(10)
        assert gate.waits == 1
        session.ready(None)
        session.wait_start(10)
        assert gate.waits == 2
        session.state("completed")
        assert gate.waits == 2
    assert (gate.waits, gate.out) == (3, 0)


class ClosableSecurity:
    closed = False

    def close(self) -> None:
        self.closed = True


def test_what_protects_the_other_connections_is_closed_with_the_session(hall, pipe_to):
    security: Any = ClosableSecurity()
    with pipe_to(hall()).session("trainer-0", security=security) as session:
        session.open(10)
        assert session.security is security
        assert not security.closed
    assert security.closed


@pytest.mark.parametrize("address", ["127.0.0.1:5", "unix:/tmp/x", ""])
def test_an_address_that_is_none_of_a_pipe_is_named(address):
    with pytest.raises(ConnectionLost, match=r"is no address of a controller's pipe \(legal: unix:@NAME\)"):
        Pipe(address, "token", timeout=1)
