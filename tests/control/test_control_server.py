"""The controller on real sockets: strangers, broken messages, dead processes, hundreds of workers."""

import os
import signal
import socket
import subprocess
import sys
import threading
from contextlib import ExitStack
from typing import Any

import grpc
import pytest

from flame_run.control import control_pb2 as pb
from flame_run.control import events, wire
from flame_run.control.errors import ConnectionLost, ControlError, ControlTimeout, SessionAborted, SessionRefused
from flame_run.control.grpc_session import GrpcSession
from flame_run.control.limits import ControlLimits
from flame_run.control.server import ControlServer

CHILD = """
import sys
from flame_run.control.grpc_session import GrpcSession
session = GrpcSession(sys.argv[1], sys.argv[2], "trainer-0")
session.open(30)
session.state("running", round_=1)
print("open", flush=True)
sys.stdin.read()
"""


def speak(server, token, messages):
    """Send raw messages as a client that keeps no rules; returns the status and its details."""
    over = threading.Event()

    def say():
        yield from messages
        over.wait(30)

    with grpc.insecure_channel(server.address) as channel:
        call: Any = channel.stream_stream(f"/{wire.SERVICE}/{wire.METHOD}")(say(), metadata=((wire.TOKEN_KEY, token),), timeout=30)
        try:
            for _ in call:
                pass
        except grpc.RpcError:
            pass
        finally:
            over.set()
        return call.code(), call.details()


@pytest.fixture
def child():
    """Starts a process with a session of its own, and kills it at the end."""
    with ExitStack() as stack:

        def start(server, token):
            process = stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-c", CHILD, server.address, token], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
                )
            )
            stack.callback(process.kill)
            assert process.stdout is not None
            assert process.stdout.readline() == "open\n"
            return process

        yield start


def test_a_wrong_token_is_refused_and_the_job_goes_on(hall, serve):
    place = hall()
    server = serve(place)
    with (
        pytest.raises(SessionRefused, match="no valid job token") as refusal,
        GrpcSession(server.address, "bad", "trainer-0") as bad,
    ):
        bad.open(10)
    assert refusal.value.kind == "token"
    assert place.controller.refusals == {"token": 1}
    with GrpcSession(server.address, place.controller.token, "trainer-0") as good:
        assert good.open(10) == {"worker": "trainer-0"}


REGISTER = wire.register("trainer-0", 1, "here")
MALFORMED = (grpc.StatusCode.INVALID_ARGUMENT, "malformed")


@pytest.mark.parametrize(
    ("messages", "status", "kind"),
    [
        ([b"\xff\xff no protobuf"], grpc.StatusCode.INVALID_ARGUMENT, "malformed"),
        ([b""], grpc.StatusCode.INVALID_ARGUMENT, "malformed"),
        ([wire.heartbeat()], grpc.StatusCode.INVALID_ARGUMENT, "malformed"),
        ([REGISTER, REGISTER], grpc.StatusCode.INVALID_ARGUMENT, "malformed"),
        ([REGISTER, b"\xff\xff"], grpc.StatusCode.INVALID_ARGUMENT, "malformed"),
        ([REGISTER, pb.Report(result=pb.Result(json=b"[1]"), number=1).SerializeToString()], *MALFORMED),
        ([REGISTER, pb.Report(result=pb.Result(json=b"{"), number=1).SerializeToString()], *MALFORMED),
        ([REGISTER, pb.Report(metrics=pb.Metrics(names=["a"]), number=1).SerializeToString()], *MALFORMED),
        ([REGISTER, wire.numbered(wire.state("flying", None, None, False), 1)], *MALFORMED),
        ([REGISTER, wire.state("running", None, None, False)], *MALFORMED),
        ([REGISTER, wire.numbered(wire.state("running", None, None, False), 2)], *MALFORMED),
        ([REGISTER, wire.result({"x": "y" * 1500})], grpc.StatusCode.RESOURCE_EXHAUSTED, "oversized"),
    ],
)
def test_a_message_that_breaks_the_rules_is_refused_counted_and_ends_its_session(hall, serve, messages, status, kind):
    place = hall(limits=ControlLimits(max_report_bytes=1000))
    server = serve(place)
    code, details = speak(server, place.controller.token, messages)
    assert code == status
    assert details
    assert place.controller.refusals == {kind: 1}
    if messages[0] == REGISTER:
        assert place.next(events.SessionLost).worker == "trainer-0"
    with GrpcSession(server.address, place.controller.token, "trainer-1") as other:
        other.open(10)


def test_a_message_far_over_the_limit_ends_its_session_too(hall, serve):
    place = hall(limits=ControlLimits(max_report_bytes=1000))
    speak(serve(place, heartbeat=3.0), place.controller.token, [REGISTER, wire.numbered(wire.result({"x": "y" * 10_000}), 1)])
    assert place.next(events.SessionLost).worker == "trainer-0"


def test_a_connection_that_does_not_speak_grpc_disturbs_nobody(hall, serve):
    place = hall()
    server = serve(place)
    host, port = server.address.rsplit(":", 1)
    with socket.create_connection((host, int(port))) as stranger:
        stranger.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        with GrpcSession(server.address, place.controller.token, "trainer-0") as session:
            session.open(10)


def test_a_report_over_the_limit_is_refused_where_it_is_made(hall, serve):
    place = hall()
    server = serve(place)
    with GrpcSession(server.address, place.controller.token, "trainer-0", limits=ControlLimits(max_report_bytes=100)) as session:
        session.open(10)
        with pytest.raises(SessionRefused, match="cannot report"):
            session.result({"x": "y" * 200})


def test_a_killed_process_is_a_lost_session_once_its_connection_had_its_time_to_come_back(hall, serve, child):
    place = hall()
    process = child(serve(place, heartbeat=3.0), place.controller.token)
    process.kill()
    lost = place.next(events.SessionLost)
    assert lost.worker == "trainer-0"
    assert lost.reason == "its connection broke and did not come back within 3 s"


def test_a_process_that_stands_still_is_lost_after_the_heartbeat(hall, serve, child):
    place = hall()
    process = child(serve(place, heartbeat=3.0), place.controller.token)
    os.kill(process.pid, signal.SIGSTOP)
    assert place.next(events.SessionLost).reason == "trainer-0 was silent for 3 s"
    assert place.controller.refusals == {"silent": 1}


def test_a_quiet_worker_stays_as_long_as_its_heart_beats(hall, serve):
    place = hall()
    server = serve(place, heartbeat=5.0)
    with GrpcSession(server.address, place.controller.token, "trainer-0") as session:
        session.open(10)
        with pytest.raises(ControlTimeout):
            session.wait_start(6.0)
        session.state("completed")
    assert [type(event).__name__ for event in place.posted()] == ["Registered", "StateChanged", "SessionClosed"]


def test_a_client_that_connects_and_says_nothing_is_dropped(hall, serve):
    place = hall()
    code, _ = speak(serve(place, heartbeat=0.2), place.controller.token, [])
    assert code == grpc.StatusCode.DEADLINE_EXCEEDED
    assert place.controller.refusals == {"silent": 1}


def test_the_end_of_the_server_is_an_abort_for_its_workers(hall, serve, noticed):
    place = hall()
    server = serve(place)
    notice = noticed()
    session = GrpcSession(server.address, place.controller.token, "trainer-0")
    session.open(10)
    session.on_abort = notice
    server.stop()
    assert notice.wait() == ["the controller of the job has ended"]
    with pytest.raises(SessionAborted):
        session.wait_start(10)
    with pytest.raises(ConnectionLost):
        session.close()


def test_stopping_frees_the_port_and_a_second_stop_does_nothing(hall, serve, own_host):
    server = serve(hall(), host=own_host)
    host, port = server.address.rsplit(":", 1)
    server.stop()
    server.stop()
    with socket.socket() as probe:
        probe.bind((host, int(port)))


def test_a_port_in_use_is_an_error_that_names_it(hall, serve):
    server = serve(hall())
    port = int(server.address.rsplit(":", 1)[1])
    with pytest.raises(ControlError, match=f"cannot listen on 127.0.0.1:{port}"):
        ControlServer(hall().controller, port=port).start()


def test_a_controller_that_is_not_there_is_waited_for_until_the_timeout(hall):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
        words = f"registering trainer-0 with the controller at {address}"
        with pytest.raises(ControlTimeout, match=words), GrpcSession(address, "token", "trainer-0") as session:
            session.open(0.3)


def test_a_proxy_of_the_environment_is_not_asked(hall, serve, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    place = hall()
    server = serve(place)
    with GrpcSession(server.address, place.controller.token, "trainer-0") as session:
        session.open(10)


def test_two_hundred_sessions_start_together_and_lose_nothing(hall, serve):
    count = 200
    place = hall(count)
    server = serve(place)
    sessions = [GrpcSession(server.address, place.controller.token, f"trainer-{index}") for index in range(count)]
    for index, session in enumerate(sessions):
        session.open(30)
        session.ready(f"127.0.0.1:{index}")
    assert all(len(session.wait_start(30)) == count for session in sessions)
    for session in sessions:
        session.metrics(1, {"loss": 1.0})
        session.state("completed")
    for session in sessions:
        session.close()
    kinds = [type(event).__name__ for event in place.posted()]
    assert {kind: kinds.count(kind) for kind in set(kinds)} == {
        "Registered": count, "Ready": count, "Started": 1, "MetricsReported": count, "StateChanged": count, "SessionClosed": count
    }  # fmt: skip


def test_an_abort_reaches_every_session_over_the_network(hall, serve, noticed):
    place = hall()
    server = serve(place)
    sessions = [GrpcSession(server.address, place.controller.token, f"trainer-{index}") for index in range(2)]
    notices = [noticed() for _ in sessions]
    for session, notice in zip(sessions, notices, strict=True):
        session.open(10)
        session.on_abort = notice
    place.controller.abort("enough")
    assert [notice.wait() for notice in notices] == [["enough"]] * 2
    for session in sessions:
        session.close()
