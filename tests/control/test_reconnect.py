"""A connection to the controller that breaks and comes back, or does not: nothing is lost, nothing is repeated, every wait ends."""

import queue
import select
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from flame_run.control import events
from flame_run.control.errors import ConnectionLost, SessionRefused
from flame_run.control.grpc_session import GrpcSession


class Cable:
    """Carries connections to `target`; it can be cut, and plugged in again."""

    def __init__(self, target: str) -> None:
        host, port = target.rsplit(":", 1)
        self._target = (host, int(port))
        self._listener = socket.create_server((host, 0))
        self.address = f"{host}:{self._listener.getsockname()[1]}"
        self._lock = threading.Lock()
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._plugged = True
        self.dialled: queue.SimpleQueue[bool] = queue.SimpleQueue()
        """Whether each attempt to connect went through."""
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def cut(self) -> None:
        """Break every connection, and refuse new ones."""
        with self._lock:
            self._plugged = False
            for pair in self._pairs:
                for end in pair:
                    # A shutdown wakes the thread that reads it, which then closes it.
                    try:
                        end.shutdown(socket.SHUT_RDWR)
                    except OSError:
                        continue
            self._pairs.clear()

    def plug(self) -> None:
        """Carry connections again."""
        with self._lock:
            self._plugged = True

    def close(self) -> None:
        self.cut()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(10)

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            with self._lock:
                plugged = self._plugged
                if plugged:
                    far = socket.create_connection(self._target)
                    self._pairs.append((near, far))
                    self._threads.append(threading.Thread(target=_carry, args=(near, far), daemon=True))
                    self._threads[-1].start()
                else:
                    near.close()
            self.dialled.put(plugged)


def _carry(near: socket.socket, far: socket.socket) -> None:
    other = {near: far, far: near}
    with near, far:
        while True:
            for end in select.select([near, far], [], [])[0]:
                try:
                    data = end.recv(65536)
                    if not data:
                        return
                    other[end].sendall(data)
                except OSError:
                    return


@pytest.fixture
def lay() -> Iterator[Any]:
    cables: list[Cable] = []

    def make(target: str) -> Cable:
        cables.append(Cable(target))
        return cables[-1]

    yield make
    for cable in cables:
        cable.close()


def attempts(cable: Cable, count: int) -> None:
    """Wait until the session has tried that often to come back in vain."""
    while count:
        count -= not cable.dialled.get(timeout=30)


def test_reports_made_while_the_connection_is_broken_arrive_once_and_in_order(hall, serve, lay):
    place = hall()
    server = serve(place)
    cable = lay(server.address)
    session = GrpcSession(cable.address, place.controller.token, "trainer-0")
    session.open(10)
    number = 0
    for _ in range(4):
        for _ in range(10):
            number += 1
            session.metrics(1, {"n": number})
        cable.cut()
        for _ in range(30):
            number += 1
            session.metrics(1, {"n": number})
        attempts(cable, 1)
        cable.plug()
        place.next(events.MetricsReported)
    session.state("completed")
    session.close()
    posted = place.posted()
    assert [type(event).__name__ for event in posted[-2:]] == ["StateChanged", "SessionClosed"]
    values = [event.values["n"] for event in posted if isinstance(event, events.MetricsReported)]
    assert values == sorted(set(values))
    assert values[-1] == number
    assert not [event for event in posted if isinstance(event, events.SessionLost)]


def test_no_report_of_a_broken_connection_is_left_out(hall, serve, lay):
    place = hall()
    server = serve(place)
    cable = lay(server.address)
    session = GrpcSession(cable.address, place.controller.token, "trainer-0")
    session.open(10)
    for number in range(200):
        session.metrics(1, {"n": number})
        if number in (50, 51, 120):
            cable.cut()
            cable.plug()
    session.close()
    values = [event.values["n"] for event in place.posted() if isinstance(event, events.MetricsReported)]
    assert values == list(range(200))


def test_a_session_that_comes_back_learns_what_it_missed(hall, serve, lay, noticed):
    place = hall(3)
    server = serve(place)
    cable = lay(server.address)
    session = GrpcSession(cable.address, place.controller.token, "trainer-0")
    gone: queue.SimpleQueue[tuple[str, str]] = queue.SimpleQueue()
    session.on_gone = lambda worker, reason: gone.put((worker, reason))
    session.open(10)
    session.ready(None)
    place.next(events.Ready)
    cable.cut()
    attempts(cable, 1)
    with GrpcSession(server.address, place.controller.token, "trainer-1") as other:
        other.open(10)
        other.ready("127.0.0.1:7")
        place.next(events.Ready)
        place.controller.give_up("trainer-2", "it was killed")
        cable.plug()
        assert gone.get(timeout=30) == ("trainer-2", "it was killed")
        assert session.wait_start(30) == {"trainer-1": "127.0.0.1:7"}
        cable.cut()
        attempts(cable, 1)
        place.controller.abort("enough")
        notice = noticed()
        session.on_abort = notice
        cable.plug()
        assert notice.wait() == ["enough"]
        session.state("terminated")
        session.close()


def test_a_connection_that_does_not_come_back_is_a_lost_session_at_both_ends_after_the_heartbeat(hall, serve, lay, noticed):
    place = hall()
    server = serve(place, heartbeat=3.0)
    cable = lay(server.address)
    session, notice = GrpcSession(cable.address, place.controller.token, "trainer-0"), noticed()
    session.on_abort = notice
    session.open(10)
    cable.cut()
    assert "it did not come back within 3 s" in notice.wait()[0]
    assert place.next(events.SessionLost).reason == "its connection broke and did not come back within 3 s"
    with pytest.raises(ConnectionLost, match="did not come back"):
        session.close()


def test_a_controller_that_stands_still_is_lost_after_the_heartbeat(hall, serve, noticed, lay):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        place = hall()
        cable = lay(serve(place, heartbeat=3.0).address)
        session, notice = GrpcSession(cable.address, place.controller.token, "trainer-0"), noticed()
        session.on_abort = notice
        session.open(10)
        # From now on connections are taken, but nobody answers.
        cable._target = silent.getsockname()
        cable.cut()
        cable.plug()
        assert "did not come back within 3 s" in notice.wait()[0]
        with pytest.raises(ConnectionLost):
            session.close()


def test_a_goodbye_whose_answer_was_lost_is_answered_again(hall, serve, lay):
    place = hall()
    server = serve(place)
    cable = lay(server.address)
    session = GrpcSession(cable.address, place.controller.token, "trainer-0")
    session.open(10)
    deliver = place.controller._seats["trainer-0"].deliver
    cable.cut()
    attempts(cable, 1)
    # What the controller does on a goodbye that comes in just before the connection breaks.
    place.controller._seats["trainer-0"].goodbye()
    assert deliver is not None
    cable.plug()
    session.close()
    assert [type(event).__name__ for event in place.posted()] == ["Registered", "SessionClosed"]


def test_a_worker_that_was_given_up_meanwhile_is_told_and_stays_out(hall, serve, lay, noticed):
    place = hall()
    server = serve(place)
    cable = lay(server.address)
    session, notice = GrpcSession(cable.address, place.controller.token, "trainer-0"), noticed()
    session.on_abort = notice
    session.open(10)
    cable.cut()
    attempts(cable, 1)
    place.controller.vacate("trainer-0", "it is started anew")
    cable.plug()
    assert "after its seat was given up" in notice.wait()[0]
    with pytest.raises(SessionRefused):
        session.close()
    with GrpcSession(server.address, place.controller.token, "trainer-0") as anew:
        assert anew.open(10) == {"worker": "trainer-0"}


def test_the_seat_of_a_broken_connection_is_taken_by_another_process_of_that_name_and_the_first_is_lost(
    hall, serve, lay, monkeypatch
):
    place, broken = hall(), threading.Event()
    detach = place.controller.detach

    def detached(seat, deliver):
        number = detach(seat, deliver)
        broken.set()
        return number

    monkeypatch.setattr(place.controller, "detach", detached)
    server = serve(place)
    cable = lay(server.address)
    first = GrpcSession(cable.address, place.controller.token, "trainer-0")
    first.open(10)
    cable.cut()
    # As long as the controller has not noticed, the first one is alive.
    assert broken.wait(30)
    with GrpcSession(server.address, place.controller.token, "trainer-0") as second:
        second.open(10)
        posted = place.posted()
        assert [type(event).__name__ for event in posted] == ["Registered", "SessionLost", "Registered"]
        assert "another process took its place" in posted[1].reason
        cable.plug()
        with pytest.raises(SessionRefused, match="after its seat was given up"):
            first.close()
