"""The controller: who has registered, who is ready, and what every worker is told. Threads yes, network no."""

import hmac
import logging
import secrets
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from flame_run.control import events
from flame_run.control.errors import SessionRefused
from flame_run.control.limits import ControlLimits
from flame_run.control.seat import Seat
from flame_run.topology.plan import Plan

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Start:
    """Every worker is ready; worker name -> `host:port` of those that listen."""

    addresses: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Abort:
    """Stop now, because of `reason`."""

    reason: str


Order = Start | Abort
Deliver = Callable[[Order], None]
"""Hands an order to a session; returns at once and may be called from any thread."""


class Controller:
    """Admits the workers of a plan, starts them together, and turns what they report into events.

    Safe to call from any thread. Every event is posted in the order in which it happened, and a worker's `goodbye`
    is answered after everything it reported before has been posted.

    Args:
        plan: who belongs to the job.
        part: worker name -> what that worker needs to know, JSON-able.
        post: takes each event and returns at once; `queue.Queue.put` fits.
        token: secret of the job; a random one by default.
        limits: bounds on what a worker may say.
        clock: seconds since the epoch.
    """

    def __init__(
        self,
        plan: Plan,
        *,
        part: Callable[[str], Mapping[str, Any]],
        post: Callable[[events.ControlEvent], None],
        token: str | None = None,
        limits: ControlLimits | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.token = token or secrets.token_hex(32)
        self.limits = limits or ControlLimits()
        self.clock = clock
        self._workers = tuple(worker.name for worker in plan.workers)
        self._part = part
        self._post = post
        self._lock = threading.Lock()
        self._seats: dict[str, Seat] = {}
        self._deliver: dict[str, Deliver] = {}
        self._addresses: dict[str, str | None] = {}
        self._refusals: Counter[str] = Counter()
        self._started = False
        self._aborted: str | None = None

    @property
    def refusals(self) -> Mapping[str, int]:
        """How often a session or a message was refused, by kind (see `SessionRefused`)."""
        with self._lock:
            return dict(self._refusals)

    def authenticate(self, token: str, peer: str) -> None:
        """Check the job token in constant time.

        Raises:
            SessionRefused: kind `token`; counted and logged with `peer`.
        """
        if not hmac.compare_digest(token.encode(), self.token.encode()):
            raise self.refuse("token", f"{peer} has no valid job token")

    def register(self, worker: str, token: str, *, pid: int, host: str, deliver: Deliver) -> Seat:
        """Admit `worker`, running as `pid` on `host`.

        Args:
            worker: its name in the plan.
            token: the job token.
            pid: its own process id.
            host: name of its machine.
            deliver: takes the orders for this session.

        Returns:
            The seat through which the session reports; `seat.part` is the worker's part of the plan.

        Raises:
            SessionRefused: kind `token`, `name` (not in the plan), `taken` (registered and alive) or `aborted`.
        """
        peer = f"{worker!r} (process {pid} on {host})"
        self.authenticate(token, peer)
        if worker not in self._workers:
            raise self.refuse("name", f"{peer} is not a worker of this job; its workers are {_some(self._workers)}")
        part = self._part(worker)
        with self._lock:
            taken, aborted = worker in self._seats, self._aborted
            if not taken and aborted is None:
                seat = Seat(self, worker, part)
                self._seats[worker], self._deliver[worker] = seat, deliver
                self._post(events.Registered(worker=worker, pid=pid, host=host, time=self.clock()))
                return seat
        if taken:
            raise self.refuse("taken", f"{peer}: {worker} is registered already and alive")
        raise self.refuse("aborted", f"{peer} comes after the job was stopped: {aborted}")

    def abort(self, reason: str) -> None:
        """Tell every session to stop; sessions that come later are refused with `reason`. The first reason stays."""
        with self._lock:
            if self._aborted is not None:
                return
            self._aborted = reason
            deliveries = list(self._deliver.values())
        for deliver in deliveries:
            deliver(Abort(reason))

    def stop_worker(self, worker: str, reason: str) -> None:
        """Tell one session to stop; nothing happens if `worker` has none."""
        with self._lock:
            deliver = self._deliver.get(worker)
        if deliver is not None:
            deliver(Abort(reason))

    def refuse(self, kind: str, reason: str) -> SessionRefused:
        """Count and log a refusal; returns the error to raise."""
        with self._lock:
            self._refusals[kind] += 1
        log.warning("refused: %s", reason)
        return SessionRefused(kind, reason)

    def report(self, seat: Seat, event: events.ControlEvent) -> None:
        """Post `event` of a seated worker.

        Raises:
            SessionRefused: kind `gone`: the seat was given up before.
        """
        with self._lock:
            if self._seats.get(seat.worker) is seat:
                self._post(event)
                return
        raise self.refuse("gone", f"{seat.worker} reports {type(event).__name__} after its session ended")

    def ready(self, seat: Seat, event: events.Ready) -> None:
        """Post `event`; when it is the last worker of the plan, start them all."""
        self.report(seat, event)
        with self._lock:
            self._addresses[seat.worker] = event.address
            if set(self._addresses) != set(self._workers):
                return
            # A worker that becomes ready after the start is told alone; the others know its old address.
            targets = [self._deliver.get(seat.worker)] if self._started else list(self._deliver.values())
            if not self._started:
                self._started = True
                self._post(events.Started(time=self.clock()))
            order = Start({worker: address for worker, address in self._addresses.items() if address is not None})
        for deliver in targets:
            if deliver is not None:
                deliver(order)

    def leave(self, seat: Seat, event: events.SessionLost | events.SessionClosed) -> None:
        """Give up a seat; the first call posts `event`, later ones do nothing."""
        with self._lock:
            if self._seats.get(seat.worker) is not seat:
                return
            del self._seats[seat.worker], self._deliver[seat.worker]
            if not self._started:
                self._addresses.pop(seat.worker, None)
            self._post(event)


def _some(names: tuple[str, ...], most: int = 8) -> str:
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest
