"""A seat: what one registered worker may report, checked before it becomes an event."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from flame_run.control import events
from flame_run.control.errors import SessionRefused
from flame_run.control.orders import Deliver
from flame_run.control.results import why_no_result
from flame_run.words import readable

if TYPE_CHECKING:
    from flame_run.control.controller import Controller

REPORTED_STATES = ("running", "completed", "failed", "terminated")
"""The states that a worker itself can know; the runner adds `ready`, `starting` and `restarting`."""


class Seat:
    """The place of one session at the controller. It ends with `goodbye` or `lost`; then a worker of that name may come again.

    A session that goes over a network may come by one connection after another; the newest one counts.

    Every report may raise `SessionRefused` of kind `malformed` (a value that cannot be) or `gone` (the seat has ended).

    Args:
        controller: whose seat it is.
        worker: name in the plan.
        part: its part of the plan.
        session: name of the session; empty where it cannot come back.
        late: it came after the job had started.
    """

    def __init__(
        self, controller: "Controller", worker: str, part: Mapping[str, Any], *, session: str = "", late: bool = False
    ) -> None:
        self.worker = worker
        self.part = part
        self.session = session
        self.late = late
        self.deliver: Deliver | None = None
        """Takes the orders; None while the connection is broken."""
        self.breaks = 0
        """How often the connection broke."""
        self.received = 0
        """Number of the last report that was taken, from 1."""
        self.attempt = 0
        """Number of the session's newest stream."""
        self._controller = controller

    def attach(self, deliver: Deliver) -> None:
        """Let orders go to `deliver` from now on; whatever was there before is replaced."""
        self.deliver = deliver

    def detach(self, deliver: Deliver) -> int:
        """Note that the connection behind `deliver` broke; returns how often that was, 0 if another connection has taken over."""
        if self.deliver is not deliver:
            return 0
        self.deliver = None
        self.breaks += 1
        return self.breaks

    def expects(self, number: int, deliver: Deliver) -> bool:
        """Whether a report of this number that comes with the connection behind `deliver` is new; if so it counts as taken."""
        if self.deliver is not deliver or number <= self.received:
            return False
        self._check(number == self.received + 1, f"report {number} after report {self.received}")
        self.received = number
        return True

    def ready(self, address: str | None) -> None:
        """Take that the worker is ready to start and listens at `address` (`host:port`), or does not listen."""
        size = len(address or "")
        self._check(size <= self._controller.limits.max_name, f"an address of {size} characters")
        self._controller.ready(self, events.Ready(worker=self.worker, address=address, time=self._now()))

    def state(self, state: str, *, round_: int | None = None, error: str | None = None, secondary: bool = False) -> None:
        """Take that the worker is `running` (in `round_`, counted from 1), `completed`, `failed` or `terminated`."""
        self._check(state in REPORTED_STATES, f"state {state!r} (legal: {', '.join(REPORTED_STATES)})")
        self._check(round_ is None or round_ >= 1, f"round {round_}")
        cut = None if error is None else readable(_cut(error, self._controller.limits.max_error), None)
        event = events.StateChanged(worker=self.worker, state=state, round=round_, error=cut, secondary=secondary, time=self._now())
        self._controller.report(self, event)

    def metrics(self, round_: int | None, values: Mapping[str, float], time: float) -> None:
        """Take values measured in `round_` at `time` (seconds since the epoch, the worker's clock); NaN and infinity are values."""
        limits = self._controller.limits
        self._check(len(values) <= limits.max_metrics, f"{len(values)} metrics at once (at most {limits.max_metrics})")
        legal = all(0 < len(name) <= limits.max_name and name.isprintable() for name in values)
        self._check(legal, "a metric without a name, or with one that is too long or cannot be printed")
        self._check(round_ is None or round_ >= 1, f"round {round_}")
        self._controller.report(self, events.MetricsReported(worker=self.worker, round=round_, values=dict(values), time=time))

    def progress(self, epoch: int, epochs: int) -> None:
        """Take that the worker has finished `epoch` of its `epochs` local epochs."""
        self._controller.report(self, events.ProgressReported(worker=self.worker, epoch=epoch, epochs=epochs, time=self._now()))

    def result(self, result: Mapping[str, Any]) -> None:
        """Take the result of a root so far; a later one replaces it."""
        wrong = why_no_result(result)
        self._check(wrong is None, f"a result whose {wrong}")
        self._controller.report(self, events.ResultReported(worker=self.worker, result=dict(result), time=self._now()))

    def goodbye(self) -> None:
        """End the session as it should."""
        self._controller.leave(self, events.SessionClosed(worker=self.worker, time=self._now()))

    def lost(self, reason: str) -> None:
        """End a session that broke. Does nothing after `goodbye`."""
        self._controller.leave(self, events.SessionLost(worker=self.worker, reason=reason, time=self._now()))

    def refuse(self, kind: str, reason: str) -> SessionRefused:
        """Count and log a message that cannot be taken; returns the error to raise."""
        return self._controller.refuse(kind, f"{self.worker} sent {reason}")

    def _now(self) -> float:
        return self._controller.clock()

    def _check(self, legal: bool, what: str) -> None:
        if not legal:
            raise self.refuse("malformed", what)


def _cut(text: str, most: int) -> str:
    if len(text) <= most:
        return text
    half = most // 2
    return f"{text[:half]}\n... {len(text) - 2 * half} characters left out ...\n{text[-half:]}"
