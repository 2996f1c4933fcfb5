"""A job as its controller and its supervisor see it, without processes: what workers say becomes records and a summary."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from flame_run.control import wire
from flame_run.control.controller import Controller
from flame_run.control.seat import Seat
from flame_run.run import events as ev
from flame_run.run.faults import FaultsConf
from flame_run.run.records import dumps
from flame_run.run.refusals import Refusals
from flame_run.run.summary import build_summary
from flame_run.run.supervisor import Supervisor
from flame_run.topology.plan import Channel, Plan, Worker

TOKEN = "token"


def small_plan() -> Plan:
    """Two trainers and their aggregator."""
    workers = tuple(
        Worker(name=f"{role}-{index}", task_id=f"{index:040x}", role=role, index=index, groups={"c": "default"}, realm="default")
        for role, index in (("aggregator", 0), ("trainer", 0), ("trainer", 1))
    )
    channel = Channel(
        name="c",
        pair=("trainer", "aggregator"),
        backend="auto",
        func_tags={"trainer": ("fetch", "upload"), "aggregator": ("distribute", "aggregate")},
        groups={"default": {"trainer": ("trainer-0", "trainer-1"), "aggregator": ("aggregator-0",)}},
    )
    return Plan(job_id="a" * 24, job_name="job", schema_name="schema", code={}, workers=workers, channels=(channel,))


class SmallJob:
    """A job that one stream at a time speaks to."""

    def __init__(self) -> None:
        self._plan = small_plan()

    def begin(self) -> None:
        """A new job."""
        self._events: list[Any] = []
        self._controller = Controller(
            self._plan, part=lambda name: {"worker": name}, post=self._events.append, token=TOKEN, clock=lambda: 1.0
        )
        self._seat: Seat | None = None

    def hear(self, data: bytes) -> None:
        """Take a message as `ControlServer` does; it raises the `SessionRefused` that ends the stream."""
        report = wire.parse_report(data)
        body = report.WhichOneof("body")
        if self._seat is None:
            if body != "register":
                raise self._controller.refuse("malformed", "somebody did not register first")
            hello = report.register
            self._seat = self._controller.register(
                hello.worker,
                TOKEN,
                pid=hello.pid,
                host=hello.host,
                deliver=self._deliver,
                session=hello.session,
                again=hello.again,
                attempt=hello.attempt,
            )
        elif body == "goodbye":
            self._seat.goodbye()
        elif body != "heartbeat" and self._seat.expects(report.number, self._deliver):
            wire.apply_report(report, self._seat)

    def _deliver(self, order: Any) -> None:
        wire.order(order)

    def end(self) -> None:
        """Let the supervisor hear all of it, and write what a person would read."""
        supervisor = Supervisor(self._plan, faults=FaultsConf(on_worker_loss="continue"))
        actions = list(supervisor.begin(0.0, 1.0))
        refusals = Refusals()
        for event in self._events:
            refusals.note(event)
            actions += supervisor.handle(event, 1.0)
        for action in actions:
            if isinstance(action, ev.RecordTask):
                dumps(asdict(action.record))
            elif isinstance(action, ev.RecordMetrics):
                for record in action.records:
                    dumps(asdict(record))
        summary = build_summary(supervisor.outcome(2.0), Path("models"))
        dumps(summary | {"security": refusals.content(self._controller.refusals)}, indent=2)
        refusals.text(self._controller.refusals)
