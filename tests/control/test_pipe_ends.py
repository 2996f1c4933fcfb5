"""How a pipe ends: dead and frozen processes, a runner that is silent or gone, and one that talks nonsense."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from unittest.mock import Mock

import pytest

from flame_run.control import events, wire
from flame_run.control.controller import Controller
from flame_run.control.errors import ConnectionLost, ControlTimeout, SessionAborted, SessionRefused
from flame_run.control.limits import ControlLimits
from flame_run.control.pipe import Pipe
from flame_run.control.pipe_frames import BEAT, HEARTBEAT, HELLO, MESSAGE, REFUSED, Incoming, frame
from flame_run.control.pipe_server import PipeServer

CHILD = """
import sys
from flame_run.control.pipe import Pipe
pipe = Pipe(sys.argv[1], sys.argv[2], timeout=30)
for worker in sys.argv[3:]:
    pipe.session(worker).open(30)
print("open", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def child():
    """Starts a process with sessions of its own over one pipe, and kills it at the end."""
    with ExitStack() as stack:

        def start(server, token, *workers):
            process = stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-c", CHILD, server.address, token, *workers],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                )
            )
            stack.callback(process.kill)
            assert process.stdout is not None
            assert process.stdout.readline() == "open\n"
            return process

        yield start


@contextmanager
def runner_that(*answers: bytes, then_ends: bool = False) -> Iterator[str]:
    """A runner that answers the first registration with these frames and then says nothing; its address."""
    with socket.socket(socket.AF_UNIX) as listener, ThreadPoolExecutor(1) as pool:
        listener.bind("")  # the kernel finds a name
        listener.listen()
        over = threading.Event()

        def answer() -> None:
            connection, _ = listener.accept()
            incoming = Incoming(2**20)
            with connection:
                while not any(each.kind == MESSAGE for each in list(incoming.feed(connection.recv(65536)))):
                    pass
                connection.sendall(b"".join(answers))
                over.wait(0 if then_ends else 30)

        done = pool.submit(answer)
        try:
            yield f"unix:@{listener.getsockname()[1:].decode()}"
        finally:
            over.set()
            done.result(10)


def welcome(heartbeat: float) -> bytes:
    return frame(HELLO, 0, HEARTBEAT.pack(heartbeat))


def test_a_killed_process_loses_its_sessions_at_once_and_nobody_elses(hall, listen, pipe_to, child):
    place = hall(3)
    server = listen(place)
    with pipe_to(place, server).session("trainer-2") as other:
        other.open(10)
        process = child(server, place.controller.token, "trainer-0", "trainer-1")
        process.kill()
        lost = [place.next(events.SessionLost) for _ in range(2)]
        assert [event.worker for event in lost] == ["trainer-0", "trainer-1"]
        assert {event.reason for event in lost} == {"the connection of its process ended without a goodbye"}
        other.state("completed")
    assert [type(event).__name__ for event in place.posted()] == ["StateChanged", "SessionClosed"]


def test_a_process_that_stands_still_loses_its_sessions_after_the_heartbeat_and_nobody_elses(hall, listen, pipe_to, child):
    place = hall(3)
    server = listen(place, heartbeat=3.0)
    with pipe_to(place, server).session("trainer-2") as other:
        other.open(10)
        process = child(server, place.controller.token, "trainer-0", "trainer-1")
        os.kill(process.pid, signal.SIGSTOP)
        lost = [place.next(events.SessionLost) for _ in range(2)]
        assert [event.worker for event in lost] == ["trainer-0", "trainer-1"]
        assert {event.reason for event in lost} == {f"process {process.pid} was silent for 3 s"}
        other.state("completed")
    assert place.controller.refusals == {"silent": 1}
    assert [type(event).__name__ for event in place.posted()] == ["StateChanged", "SessionClosed"]


def test_quiet_workers_stay_as_long_as_the_heart_of_their_process_beats(hall, listen, pipe_to):
    place = hall()
    with pipe_to(place, listen(place, heartbeat=5.0)).session("trainer-0") as session:
        session.open(10)
        with pytest.raises(ControlTimeout):
            session.wait_start(6.0)
        session.state("completed")
    assert [type(event).__name__ for event in place.posted()] == ["Registered", "StateChanged", "SessionClosed"]


def test_a_runner_that_stands_still_is_an_abort_after_the_heartbeat(noticed):
    notice = noticed()
    with runner_that(welcome(0.4), frame(MESSAGE, 1, wire.part({"worker": "trainer-0"}, 0.4))) as address:
        pipe = Pipe(address, "token", timeout=10)
        session = pipe.session("trainer-0")
        session.on_abort = notice
        assert session.open(10) == {"worker": "trainer-0"}
        assert notice.wait() == [f"the controller at {address} was silent for 0.4 s"]
        session.metrics(1, {"loss": 1.0})
        with pytest.raises(ConnectionLost, match=r"silent for 0\.4 s"):
            session.wait_start(10)
        with pytest.raises(ConnectionLost, match=r"silent for 0\.4 s"):
            session.close()
        pipe.close()


def test_a_runner_that_ends_is_an_abort_at_once_and_later_sessions_are_told_the_same(noticed):
    notice = noticed()
    with runner_that(welcome(30), frame(MESSAGE, 1, wire.part({}, 30)), then_ends=True) as address:
        pipe = Pipe(address, "token", timeout=10)
        session = pipe.session("trainer-0")
        session.on_abort = notice
        session.open(10)
        assert notice.wait() == [f"the controller at {address} ended the connection"]
        with pytest.raises(ConnectionLost, match="ended the connection"):
            pipe.session("trainer-1").open(10)
        pipe.close()


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (frame(HELLO, 0, b"soon"), "a heartbeat of 0.0 s"),
        (frame(HELLO, 0, HEARTBEAT.pack(float("nan"))), "a heartbeat of nan s"),
        (welcome(30) + frame(77), "a frame of kind 77"),
        (welcome(30) + frame(MESSAGE, 1, b"\xff\xff"), "2 bytes that are no order"),
        (welcome(30) + frame(MESSAGE, 1), "unexpected None"),
        (welcome(30) + frame(MESSAGE, 1, b"x" * 2000), "a message of 2000 bytes"),
        (welcome(30) + frame(REFUSED, 1, b"{}"), "a refusal that is none"),
        (welcome(30) + frame(REFUSED, 1, b"no"), "what is no order"),
    ],
)
def test_a_runner_that_sends_nonsense_is_refused(answer, words):
    with runner_that(answer) as address:
        pipe = Pipe(address, "token", timeout=10, limits=ControlLimits(max_order_bytes=1000))
        with pytest.raises(SessionRefused, match=words) as refusal:
            pipe.session("trainer-0").open(10)
        assert refusal.value.kind == "malformed"
        pipe.close()


def test_orders_for_a_session_that_is_not_there_and_signs_of_life_are_passed_over():
    stray = frame(MESSAGE, 9, wire.farewell()) + frame(REFUSED, 9, b'{"kind": "x", "reason": "y"}')
    with runner_that(welcome(30), frame(BEAT), stray, frame(MESSAGE, 1, wire.part({"a": 1}, 30))) as address:
        pipe = Pipe(address, "token", timeout=10)
        assert pipe.session("trainer-0").open(10) == {"a": 1}
        pipe.close()


def test_a_runner_that_does_not_answer_ends_the_wait_with_the_name_of_the_worker(hall, listen):
    go_on = threading.Event()

    def part(name):
        assert go_on.wait(30)
        return {"worker": name}

    place = hall()
    place.controller = Controller(place.controller._plan, part=part, post=place.events.put)
    server = listen(place)
    pipe = Pipe(server.address, place.controller.token, timeout=10)
    session = pipe.session("trainer-0")
    with pytest.raises(ControlTimeout, match=r"registering trainer-0 with the controller at unix:@.* took longer than 0\.05 s"):
        session.open(0.05)
    session.close()
    go_on.set()
    assert place.next(events.SessionLost).reason == "its session was closed without a goodbye"
    pipe.close()


def test_closing_says_what_it_waited_for_in_vain(hall):
    with runner_that(welcome(30), frame(MESSAGE, 1, wire.part({}, 30))) as address:
        pipe = Pipe(address, "token", timeout=10)
        session = pipe.session("trainer-0")
        session.open(10)
        with pytest.raises(ControlTimeout, match=r"trainer-0 waited 0\.05 s for the controller to acknowledge its last reports"):
            session.close(0.05)
        session.close()
        pipe.close()


def test_the_end_of_the_server_is_an_abort_for_its_workers(hall, listen, pipe_to, noticed):
    place, notice = hall(), noticed()
    server = listen(place)
    session = pipe_to(place, server).session("trainer-0")
    session.open(10)
    session.on_abort = notice
    server.stop()
    server.stop()
    assert notice.wait() == ["the controller of the job has ended"]
    with pytest.raises(SessionAborted):
        session.wait_start(10)
    with pytest.raises(ConnectionLost):
        session.close()
    with pytest.raises(ConnectionLost, match="cannot be reached: Connection refused"):
        Pipe(server.address, place.controller.token, timeout=10)


def test_sessions_say_goodbye_while_the_server_stops(hall, listen, pipe_to, monkeypatch):
    place = hall()
    server = listen(place)
    session = pipe_to(place, server).session("trainer-0")
    session.open(10)
    # The clock of the server stands still, so the time for goodbyes is never over.
    monkeypatch.setattr("flame_run.control.pipe_server.time", Mock(monotonic=Mock(return_value=time.monotonic())))
    with ThreadPoolExecutor(1) as pool:

        def end(reason):
            pool.submit(session.state, "terminated", error=reason)
            pool.submit(session.close)

        session.on_abort = end
        server.stop(timeout=30)
    assert [type(event).__name__ for event in place.posted()] == ["Registered", "StateChanged", "SessionClosed"]


def test_a_server_that_was_never_started_stops_without_effect(hall):
    PipeServer(hall().controller, heartbeat=1.0).stop()
