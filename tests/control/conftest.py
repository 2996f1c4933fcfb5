"""A plan without documents, a controller that collects its events, and servers that end with the test."""

import os
import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from flame_run.control.controller import Controller
from flame_run.control.limits import ControlLimits
from flame_run.control.pipe import Pipe
from flame_run.control.pipe_server import PipeServer
from flame_run.control.server import ControlServer
from flame_run.topology.plan import Channel, Plan, Worker


def make_plan(count: int = 2) -> Plan:
    workers = tuple(
        Worker(name=f"trainer-{index}", task_id=f"{index:040x}", role="trainer", index=index, groups={}, realm="default")
        for index in range(count)
    )
    return Plan(job_id="a" * 24, job_name="job", schema_name="schema", code={}, workers=workers, channels=())


class Hall:
    """A controller for `count` workers and the events that it posted."""

    def __init__(self, count: int = 2, limits: ControlLimits | None = None, plan: Plan | None = None) -> None:
        self.events: queue.Queue[Any] = queue.Queue()
        self.controller = Controller(
            plan or make_plan(count), part=lambda name: {"worker": name}, post=self.events.put, limits=limits, clock=lambda: 1000.0
        )

    def next(self, kind: type, timeout: float = 60.0) -> Any:
        """The next event of `kind`; others before it are dropped."""
        while True:
            event = self.events.get(timeout=timeout)
            if isinstance(event, kind):
                return event

    def posted(self) -> list[Any]:
        """The events posted so far."""
        found = []
        while not self.events.empty():
            found.append(self.events.get_nowait())
        return found


@pytest.fixture
def star() -> Hall:
    """A hall for one aggregator and two trainers on a channel."""
    workers = tuple(
        Worker(name=name, task_id=name, role=name[:-2], index=int(name[-1]), groups={"c": "all"}, realm="default")
        for name in ("top-0", "trainer-0", "trainer-1")
    )
    members = {"all": {"top": ("top-0",), "trainer": ("trainer-0", "trainer-1")}}
    tags = {"trainer": ("fetch",), "top": ("distribute",)}
    channel = Channel(name="c", backend="auto", pair=("trainer", "top"), func_tags=tags, groups=members)
    return Hall(plan=Plan(job_id="a" * 24, job_name="job", schema_name="s", code={}, workers=workers, channels=(channel,)))


class Noticed:
    """An `on_abort` that remembers."""

    def __init__(self) -> None:
        self.reasons: list[str] = []
        self._called = threading.Event()

    def __call__(self, reason: str) -> None:
        self.reasons.append(reason)
        self._called.set()

    def wait(self) -> list[str]:
        """The reasons, once there is one."""
        assert self._called.wait(60), "on_abort was not called within 60 s"
        return self.reasons


@pytest.fixture
def noticed() -> type[Noticed]:
    return Noticed


@pytest.fixture
def hall() -> Callable[..., Hall]:
    return Hall


@pytest.fixture
def own_host() -> str:
    """An address of this machine that no other process uses: a port of it that is given up is taken by nobody."""
    high, low = divmod(os.getpid(), 256)
    return f"127.{77 + high // 256 % 100}.{high % 256}.{low}"


@pytest.fixture(scope="module")
def make_hall() -> Callable[..., Hall]:
    """As `hall`, for what lives longer than a test."""
    return Hall


@pytest.fixture
def serve() -> Iterator[Callable[..., ControlServer]]:
    servers: list[ControlServer] = []

    def start(hall: Hall, **options: Any) -> ControlServer:
        server = ControlServer(hall.controller, **options)
        servers.append(server)
        server.start()
        return server

    yield start
    for server in servers:
        server.stop()


@pytest.fixture
def listen() -> Iterator[Callable[..., PipeServer]]:
    """Starts servers for pipes."""
    servers: list[PipeServer] = []

    def start(hall: Hall, *, heartbeat: float = 30.0) -> PipeServer:
        servers.append(PipeServer(hall.controller, heartbeat=heartbeat))
        servers[-1].start()
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


@pytest.fixture
def pipe_to(listen: Callable[..., PipeServer]) -> Iterator[Callable[..., Pipe]]:
    """Makes pipes to the controller of a hall; they are closed at the end."""
    pipes: list[Pipe] = []

    def make(hall: Hall, server: PipeServer | None = None) -> Pipe:
        pipes.append(Pipe((server or listen(hall)).address, hall.controller.token, timeout=10))
        return pipes[-1]

    yield make
    for pipe in pipes:
        pipe.close()
