"""Strangers at the controller's Unix socket, and processes that keep no rules: refused, counted, and nobody else suffers."""

import json
import logging
import os
import resource
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flame_run.control import events, wire
from flame_run.control.errors import ConnectionLost, SessionRefused
from flame_run.control.limits import ControlLimits
from flame_run.control.pipe import Pipe
from flame_run.control.pipe_frames import BEAT, HEADER, HELLO, MESSAGE, QUIT, REFUSED, Frame, Incoming, frame
from flame_run.control.pipe_server import PipeServer

REGISTER = wire.register("trainer-0", 1, "here")
JOIN = frame(MESSAGE, 1, REGISTER)


@contextmanager
def dialled(server: PipeServer) -> Iterator[socket.socket]:
    """A bare connection."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(10)
        connection.connect("\0" + server.address.removeprefix("unix:@"))
        yield connection


def answers(connection: socket.socket) -> list[Frame]:
    """What the server says until it ends the connection."""
    incoming = Incoming(2**26)
    frames: list[Frame] = []
    while True:
        try:
            data = connection.recv(65536)
        except ConnectionResetError:
            return frames
        if not data:
            return frames
        frames += incoming.feed(data)


def say(server: PipeServer, data: bytes) -> list[Frame]:
    with dialled(server) as connection:
        connection.sendall(data)
        return answers(connection)


def still_serves(server: PipeServer, token: str) -> None:
    pipe = Pipe(server.address, token, timeout=10)
    with pipe.session("trainer-1") as session:
        assert session.open(10) == {"worker": "trainer-1"}
    pipe.close()


def test_a_wrong_token_is_refused_and_the_job_goes_on(hall, listen):
    place = hall()
    server = listen(place)
    pipe = Pipe(server.address, "bad", timeout=10)
    with pytest.raises(SessionRefused, match="has no valid job token") as refusal:
        pipe.session("trainer-0").open(10)
    pipe.close()
    assert refusal.value.kind == "token"
    assert place.controller.refusals == {"token": 1}
    still_serves(server, place.controller.token)


@pytest.mark.parametrize("data", [JOIN, frame(BEAT), frame(HELLO, 1, b"token"), frame(77), b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"])
def test_who_does_not_begin_with_the_token_is_refused(hall, listen, data):
    place = hall()
    server = listen(place)
    refused = say(server, data)[-1]
    assert (refused.kind, refused.number) == (REFUSED, 0)
    assert sum(place.controller.refusals.values()) == 1
    assert place.posted() == []
    still_serves(server, place.controller.token)


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (frame(MESSAGE, 1, b"\xff\xff no protobuf"), "malformed"),
        (frame(MESSAGE, 2, b""), "malformed"),
        (frame(MESSAGE, 2, wire.heartbeat()), "malformed"),
        (frame(MESSAGE, 2, wire.state("running", None, None, False)), "malformed"),
        (frame(MESSAGE, 3, wire.register("trainer-1", 1, "here")), "malformed"),
        (frame(MESSAGE, 0, REGISTER), "malformed"),
        (frame(HELLO, 0, b"again"), "malformed"),
        (frame(BEAT, 0, b"loud"), "malformed"),
        (frame(QUIT, 2, b"who"), "malformed"),
        (frame(REFUSED, 1, b"{}"), "malformed"),
        (frame(77, 1), "malformed"),
        (frame(MESSAGE, 1, wire.result({"x": "y" * 1500})), "oversized"),
        (HEADER.pack(2**32 - 1, 1, MESSAGE), "oversized"),
    ],
)
def test_what_breaks_the_rules_of_the_pipe_ends_the_connection_and_its_sessions(hall, listen, data, kind):
    place = hall(limits=ControlLimits(max_report_bytes=1000))
    server = listen(place)
    refused = say(server, frame(HELLO, 0, place.controller.token.encode()) + JOIN + data)[-1]
    assert (refused.kind, refused.number) == (REFUSED, 0)
    assert json.loads(refused.body)["kind"] == kind
    assert place.controller.refusals == {kind: 1}
    lost = place.next(events.SessionLost)
    assert (lost.worker, lost.reason) == ("trainer-0", json.loads(refused.body)["reason"])
    still_serves(server, place.controller.token)


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (wire.register("trainer-9", 1, "here"), "name"),
        (wire.register("trainer-0", 1, "h" * 300), "malformed"),
        (REGISTER, "taken"),
    ],
)
def test_a_registration_that_is_refused_ends_nothing_else(hall, listen, body, kind):
    place = hall()
    server = listen(place)
    with dialled(server) as connection:
        connection.sendall(frame(HELLO, 0, place.controller.token.encode()) + JOIN + frame(MESSAGE, 2, body))
        connection.sendall(frame(MESSAGE, 2, wire.ready(None)) + frame(MESSAGE, 1, wire.goodbye()))
        connection.shutdown(socket.SHUT_WR)
        told = answers(connection)
    assert [(each.kind, each.number) for each in told] == [(HELLO, 0), (MESSAGE, 1), (REFUSED, 2), (MESSAGE, 1)]
    assert json.loads(told[2].body)["kind"] == kind
    assert told[3].body == wire.farewell()
    assert [type(event).__name__ for event in place.posted()] == ["Registered", "SessionClosed"]


def test_who_connects_and_says_nothing_is_dropped(hall, listen):
    place = hall()
    (refused,) = say(listen(place, heartbeat=0.2), b"")
    assert json.loads(refused.body)["kind"] == "silent"
    assert place.controller.refusals == {"silent": 1}


def test_a_stranger_is_not_kept_by_single_bytes(hall, listen):
    place = hall()
    with dialled(listen(place, heartbeat=0.5)) as connection:
        # A frame that never gets whole.
        connection.sendall(HEADER.pack(1000, 0, HELLO))
        connection.settimeout(0.05)
        while True:
            # It may have hung up since the last look; what it said before that can still be read.
            with suppress(BrokenPipeError):
                connection.sendall(b"\0")
            try:
                refused = connection.recv(65536)
                break
            except TimeoutError:
                continue
    assert json.loads(refused[HEADER.size :])["kind"] == "silent"
    assert place.controller.refusals == {"silent": 1}


def test_another_user_is_refused(hall, listen, monkeypatch):
    place = hall()
    server = listen(place)
    user = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: user + 1)
    pipe = Pipe(server.address, place.controller.token, timeout=10)
    with pytest.raises(ConnectionLost):
        pipe.session("trainer-0").open(10)
    pipe.close()
    assert place.controller.refusals == {"token": 1}


def test_connections_that_come_after_the_most_are_refused(hall, listen, monkeypatch):
    monkeypatch.setattr("flame_run.control.pipe_server.FEWEST", 1)
    monkeypatch.setattr("flame_run.control.pipe_server.MOST", 1)
    place = hall()
    server = listen(place)
    with dialled(server), dialled(server) as late:
        assert answers(late) == []
    assert place.controller.refusals == {"taken": 1}


class Warned(logging.Handler):
    """Says when something was logged."""

    def __init__(self) -> None:
        super().__init__()
        self.told = threading.Event()

    def emit(self, record: logging.LogRecord) -> None:
        self.told.set()


def test_a_runner_without_files_to_open_takes_connections_again_when_it_has_some(hall, listen, caplog):
    place = hall()
    server = listen(place)
    warned = Warned()
    log = logging.getLogger("flame_run.control.pipe_server")
    log.addHandler(warned)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        with socket.socket(socket.AF_UNIX) as connection, open(os.devnull) as free:  # noqa: PTH123 - its number is the point
            connection.settimeout(10)
            free.close()
            resource.setrlimit(resource.RLIMIT_NOFILE, (free_number(), hard))
            connection.connect("\0" + server.address.removeprefix("unix:@"))
            assert warned.told.wait(10)
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            connection.sendall(frame(HELLO, 0, place.controller.token.encode()))
            assert connection.recv(65536)[HEADER.size - 1] == HELLO
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        log.removeHandler(warned)
    assert "nobody can connect" in caplog.text


def free_number() -> int:
    """The number that the next file would get."""
    number = os.dup(0)
    os.close(number)
    return number


REPORTS = [
    REGISTER,
    wire.ready("127.0.0.1:5"),
    wire.state("running", 1, None, False),
    wire.state("flying", None, None, False),
    wire.metrics(1, {"loss": 1.0}),
    wire.progress(1, 2),
    wire.result({"a": 1}),
    wire.heartbeat(),
    wire.goodbye(),
]
BODIES = st.one_of(st.sampled_from(REPORTS), st.binary(max_size=40), st.just(b""))
FRAMES = st.builds(frame, st.integers(0, 6), st.integers(0, 4), BODIES)
JOINS = st.integers(1, 3).map(lambda number: frame(MESSAGE, number, REGISTER))


@settings(max_examples=150)
@given(greets=st.booleans(), parts=st.lists(st.one_of(FRAMES, JOINS, st.binary(max_size=30)), max_size=12))
def test_whatever_bytes_come_the_server_goes_on_and_serves_the_others(fuzzed, greets, parts):
    place, server = fuzzed
    hello = frame(HELLO, 0, place.controller.token.encode()) if greets else b""
    with dialled(server) as connection:
        try:
            connection.sendall(hello + b"".join(parts))
            connection.shutdown(socket.SHUT_WR)
        except BrokenPipeError:
            pass
        answers(connection)
    still_serves(server, place.controller.token)
    opened = [
        event.worker for event in place.posted() if isinstance(event, (events.Registered, events.SessionLost, events.SessionClosed))
    ]
    assert len(opened) % 2 == 0
    assert place.controller._seats == {}


@pytest.fixture(scope="module")
def fuzzed(make_hall):
    """One server for all examples."""
    place = make_hall()
    server = PipeServer(place.controller, heartbeat=30.0)
    server.start()
    yield place, server
    server.stop()
