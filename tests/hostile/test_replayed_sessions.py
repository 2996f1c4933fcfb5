"""What a worker has said is said again by somebody who has listened: word for word, in another order, and while it still speaks."""

import random
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from flame_run.control.controller import Controller
from flame_run.control.errors import SessionRefused
from flame_run.control.grpc_session import GrpcSession
from flame_run.control.server import ControlServer
from flame_run.topology.plan import Plan, Worker
from tests.e2e.wiretap import Wiretap
from tests.hostile import h2
from tests.hostile.conftest import FOLDER, Siege, ports_of
from tests.hostile.strangers import Door

ANSWER = 15.0
"""Seconds that a replayed connection may take to be refused; it is held open for so long."""


class Replay:
    """A recorded connection, said again; ends when the other side hangs up or has nothing more to say."""

    def __init__(self, door: Door, said: bytes) -> None:
        self._socket = door.connected()
        self._socket.settimeout(ANSWER)
        self.heard = b""
        with suppress(OSError):
            self._socket.sendall(said)

    def finish(self) -> bytes:
        """Read what comes until the call that was replayed is over."""
        with suppress(OSError):
            while data := self._socket.recv(2**16):
                self.heard += data
                if any(each[3] in (h2.HEADERS, h2.RST_STREAM) and each[4] & h2.END_STREAM for each in h2.frames_of(self._framed)):
                    break
        self._socket.close()
        return self.heard

    @property
    def _framed(self) -> bytes:
        return h2.PREFACE + self.heard  # a server says no preface


@pytest.fixture
def place() -> Iterator[Any]:
    worker = Worker(name="trainer-0", task_id="0" * 40, role="trainer", index=0, groups={}, realm="default")
    plan = Plan(job_id="a" * 24, job_name="job", schema_name="schema", code={}, workers=(worker,), channels=())
    events: list[Any] = []
    controller = Controller(plan, part=lambda name: {"worker": name}, post=events.append)
    server = ControlServer(controller, heartbeat=10.0)
    server.start()
    yield server, controller, events
    server.stop()


def test_a_registration_that_was_heard_does_not_take_the_place_of_the_session_that_made_it(place: Any) -> None:
    server, controller, events = place
    port = int(server.address.rpartition(":")[2])
    with Wiretap(server.address) as recorder, GrpcSession(recorder.address, controller.token, "trainer-0") as session:
        session.open(10)
        session.metrics(1, {"loss": 1.0})
        for number in range(3):
            Replay(Door(port, control=True), recorder.said()[0]).finish()
            session.metrics(2, {"loss": float(number)})
        session.state("completed")
        session.close()
    assert controller.refusals == {"taken": 3}
    kinds = [type(each).__name__ for each in events]
    assert kinds == ["Registered", *["MetricsReported"] * 4, "StateChanged", "SessionClosed"]
    # And after it has left, a replay brings nobody back.
    Replay(Door(port, control=True), recorder.said()[0]).finish()
    assert len(events) == len(kinds)


def test_a_worker_whose_connection_broke_comes_back_though_somebody_replays_it(place: Any) -> None:
    server, controller, events = place
    port = int(server.address.rpartition(":")[2])
    with Wiretap(server.address) as recorder, GrpcSession(recorder.address, controller.token, "trainer-0") as session:
        session.open(10)
        session.metrics(1, {"loss": 1.0})
        said = recorder.said()[0]
        recorder.mend()
        Replay(Door(port, control=True), said).finish()
        session.metrics(2, {"loss": 2.0})
        session.close()
    assert [each.round for each in events if type(each).__name__ == "MetricsReported"] == [1, 2]
    assert set(controller.refusals) <= {"taken"}
    with pytest.raises(SessionRefused), GrpcSession(server.address, "guess", "trainer-0") as other:
        other.open(10)


class Tapped:
    """A job whose trainer-1 speaks with the controller and with the aggregator through recorders.

    Args:
        folder: of the test.
        start: starts `flame-run`.
        stack: ends what this begins.
        security: overrides.
    """

    def __init__(self, folder: Path, start: Any, stack: ExitStack, *security: str) -> None:
        self.channels = stack.enter_context(Wiretap(lambda: f"127.0.0.1:{self._of_aggregator()[0]}"))
        external = ("launcher=external", "launcher.local=[aggregator]", f"transport.advertise={self.channels.address}")
        self.siege = Siege(folder, *external, "transport=grpc", "faults.heartbeat=10", *security)
        stack.callback(self._end)
        run = self.siege.run
        self.port = int(run.await_line(r"^waiting at").split()[2].rpartition(":")[2])
        self.control = stack.enter_context(Wiretap(f"127.0.0.1:{self.port}"))
        (line,) = [each for each in [run.await_line("--worker trainer-0")] if each]
        bundles = Path(line.split()[-1]).parent
        approved = ("approve.targets=[gated.*]", f"python_path=[{FOLDER}]")
        self.sites = [
            start("join", address, "--worker", name, "--bundle", str(bundles / name), *approved, env=self.siege.environment)
            for name, address in (("trainer-0", f"127.0.0.1:{self.port}"), ("trainer-1", self.control.address))
        ]
        run.await_line(r"^round 1/")

    def _of_aggregator(self) -> list[int]:
        """Where the aggregator listens, which is the only child of the runner that does."""
        runner = psutil.Process(self.siege.run.process.pid)
        return [port for each in runner.children(recursive=True) for port in ports_of(each)]

    def doors(self) -> tuple[Door, Door]:
        return Door(self.port, control=True), Door(self._of_aggregator()[0], control=False)

    def _end(self) -> None:
        if self.siege.run.process.poll() is None:
            self.siege.run.process.kill()
            self.siege.run.process.communicate()


@pytest.mark.parametrize("security", ["token", "tls"])
def test_a_recorded_session_said_again_in_any_order_changes_nothing(
    start: Any, tmp_path: Path, undisturbed: str, security: str
) -> None:
    draw = random.Random(3)
    with ExitStack() as stack:
        job = Tapped(tmp_path, start, stack, f"security={security}")
        control, channel = job.doors()
        for door, recorder in ((control, job.control), (channel, job.channels)):
            recorded = recorder.said()
            assert recorded
            for said in recorded:
                whole = [said, said[: len(said) // 2], said * 2]
                changed = [h2.reordered(said, draw) for _ in range(3)] if security == "token" else [said[::-1], said[5:] + said[:5]]
                replays = [Replay(door, each) for each in (*whole, *changed)]
                for replay in replays:
                    replay.finish()
        status = job.siege.relieve()
        assert [status, *(each.finish() for each in job.sites)] == [0, 0, 0], job.siege.run.text + job.siege.run.stderr
    summary = job.siege.run.json("summary.json")
    assert (summary["status"], summary["model_sha256"]) == ("completed", undisturbed)
    refused = summary["security"]["refused"]
    if security == "token":
        assert refused["controller"]["taken"] >= 2
        assert refused["workers"]["aggregator-0"] >= 4  # the connections of both trainers were recorded
    else:
        assert set(refused["controller"]) == {"certificate"}
        assert refused["workers"]["aggregator-0"] >= 4
