"""What every session promises, on each implementation."""

import queue
from collections.abc import Mapping
from contextlib import ExitStack, suppress

import pytest

from flame_run.control import events
from flame_run.control.errors import ControlError, ControlTimeout, SessionAborted, SessionRefused
from flame_run.control.grpc_session import GrpcSession
from flame_run.control.local_session import LocalSession
from flame_run.control.session import Session
from flame_run.topology.plan import Channel, Plan, Worker


def pair_plan() -> Plan:
    """Two workers that meet on a channel."""
    workers = tuple(
        Worker(name=f"{role}-0", task_id=role, role=role, index=0, groups={"c": "all"}, realm="default") for role in ("a", "b")
    )
    groups = {"all": {"a": ("a-0",), "b": ("b-0",)}}
    channel = Channel(name="c", backend="auto", pair=("a", "b"), func_tags={"a": ("distribute",), "b": ("fetch",)}, groups=groups)
    return Plan(job_id="a" * 24, job_name="job", schema_name="s", code={}, workers=workers, channels=(channel,))


@pytest.fixture(params=["local", "grpc", "pipe"])
def connect(request, serve, pipe_to):
    """Makes sessions to the controller of a hall; they are closed at the end, unless they were."""
    with ExitStack() as stack:
        servers, pipes = {}, {}

        def make(hall, worker="trainer-0"):
            if request.param == "local":
                session: Session = LocalSession(hall.controller, worker)
            elif request.param == "pipe":
                if hall not in pipes:
                    pipes[hall] = pipe_to(hall)
                session = pipes[hall].session(worker)
            else:
                if hall not in servers:
                    servers[hall] = serve(hall)
                session = GrpcSession(servers[hall].address, hall.controller.token, worker)
            stack.callback(session.close)
            return session

        yield make


def test_it_opens_with_the_part_of_the_worker(hall, connect):
    assert connect(hall()).open(10) == {"worker": "trainer-0"}


def test_everything_reported_has_arrived_in_order_when_close_returns(hall, connect):
    place = hall()
    session = connect(place)
    session.open(10)
    session.state("running")
    for round_ in range(1, 4):
        session.state("running", round_=round_)
        for step in range(50):
            session.metrics(round_, {f"loss-{step}": step / 7, "acc": float("inf")})
        session.progress(round_, 3)
    session.result({"rounds": 3})
    session.state("completed")
    session.close()
    posted = place.posted()
    values = [dict(event.values) for event in posted if isinstance(event, events.MetricsReported)]
    assert values == [{f"loss-{step}": step / 7, "acc": float("inf")} for _ in range(3) for step in range(50)]
    assert [event.round for event in posted if isinstance(event, events.StateChanged)] == [None, 1, 2, 3, None]
    assert [type(event).__name__ for event in posted[-3:]] == ["ResultReported", "StateChanged", "SessionClosed"]


def test_the_order_of_the_values_of_one_report_is_kept(hall, connect):
    place = hall()
    session = connect(place)
    session.open(10)
    session.metrics(1, {"z": 1.0, "a": 2.0, "m": 3.0})
    assert list(place.next(events.MetricsReported).values) == ["z", "a", "m"]


def test_workers_that_are_ready_learn_each_others_addresses(hall, connect):
    place = hall()
    sessions = [connect(place, f"trainer-{index}") for index in range(2)]
    for index, session in enumerate(sessions):
        session.open(10)
        session.ready(f"127.0.0.1:{index}" if index else None)
    assert [session.wait_start(10) for session in sessions] == [{"trainer-1": "127.0.0.1:1"}] * 2


def test_waiting_for_a_start_that_does_not_come_says_what_it_waited_for(hall, connect):
    session = connect(hall())
    session.open(10)
    with pytest.raises(ControlTimeout, match=r"trainer-0 waited 0\.01 s for every worker to be ready"):
        session.wait_start(0.01)


def test_an_abort_ends_the_wait_for_the_start_and_calls_back_once(hall, connect, noticed):
    place, notice = hall(), noticed()
    session = connect(place)
    session.on_abort = notice
    session.open(10)
    place.controller.abort("trainer-1 failed")
    with pytest.raises(SessionAborted, match="trainer-1 failed"):
        session.wait_start(10)
    notice.wait()
    place.controller.stop_worker("trainer-0", "again")
    session.close()
    assert notice.reasons == ["trainer-1 failed"]
    assert session.aborted == "trainer-1 failed"


def test_a_callback_set_after_the_abort_is_called_at_once(hall, connect, noticed):
    place, notice = hall(), noticed()
    session = connect(place)
    session.open(10)
    place.controller.abort("late")
    with pytest.raises(SessionAborted):
        session.wait_start(10)
    session.on_abort = notice
    assert notice.wait() == ["late"]


def test_a_worker_that_will_not_come_back_is_told_once_whenever_somebody_listens(hall, connect):
    place = hall()
    told: queue.SimpleQueue[tuple[str, str]] = queue.SimpleQueue()
    session = connect(place)
    session.open(10)
    place.controller.give_up("trainer-1", "it was killed")
    session.on_gone = lambda worker, reason: told.put((worker, reason))
    assert told.get(timeout=10) == ("trainer-1", "it was killed")
    session.ready(None)
    session.wait_start(10)
    assert told.empty()


def test_addresses_are_told_before_the_start_and_again_as_they_change(hall, connect):
    place = hall(plan=pair_plan())
    told: queue.SimpleQueue[Mapping[str, str]] = queue.SimpleQueue()
    session, other = connect(place, "a-0"), connect(place, "b-0")
    session.on_addresses = told.put
    for each, address in ((session, "127.0.0.1:1"), (other, "127.0.0.1:2")):
        each.open(10)
        each.ready(address)
    session.wait_start(10)
    assert told.get_nowait() == {"a-0": "127.0.0.1:1", "b-0": "127.0.0.1:2"}
    place.controller.vacate("b-0", "it is started anew")
    anew = connect(place, "b-0")
    anew.open(10)
    anew.ready("127.0.0.1:3")
    assert told.get(timeout=10) == {"b-0": "127.0.0.1:3"}
    assert anew.wait_start(10) == {"a-0": "127.0.0.1:1", "b-0": "127.0.0.1:3"}
    with suppress(ControlError):
        other.close()


def test_an_aborted_worker_can_still_say_how_it_ended(hall, connect):
    place = hall()
    session = connect(place)
    session.open(10)
    place.controller.abort("over")
    with pytest.raises(SessionAborted):
        session.wait_start(10)
    session.state("terminated", error="over")
    session.close()
    assert place.posted()[-2:] == [
        events.StateChanged(worker="trainer-0", state="terminated", error="over", time=1000.0),
        events.SessionClosed(worker="trainer-0", time=1000.0),
    ]


@pytest.mark.parametrize(("worker", "words"), [("trainer-7", "not a worker of this job"), ("trainer-1", "registered already")])
def test_a_refused_worker_learns_why(hall, connect, worker, words):
    place = hall()
    connect(place, "trainer-1").open(10)
    with pytest.raises(SessionRefused, match=words):
        connect(place, worker).open(10)


def test_closing_twice_or_without_having_opened_does_nothing(hall, connect):
    place = hall()
    session = connect(place)
    session.close()
    session.close()
    assert place.posted() == []


def test_a_report_on_a_session_that_is_not_open_is_a_mistake(hall, connect):
    with pytest.raises(RuntimeError, match="session of trainer-0 is not open"):
        connect(hall()).state("running")
