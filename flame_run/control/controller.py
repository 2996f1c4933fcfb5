"""The controller: who has registered, who is ready, and what every worker is told. Threads yes, network no."""

import hmac
import logging
import secrets
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from flame_run.control import events
from flame_run.control.errors import SessionRefused
from flame_run.control.limits import ControlLimits
from flame_run.control.orders import Abort, Deliver, Gone, Order, Start
from flame_run.control.seat import Seat
from flame_run.topology.plan import Plan
from flame_run.words import Bounded, readable

log = logging.getLogger(__name__)
Deliveries = list[tuple[Deliver, Order]]


class Controller:
    """Admits the workers of a plan, starts them together, and turns what they report into events.

    Safe to call from any thread. Every event is posted in the order in which it happened, and a worker's `goodbye`
    is answered after everything it reported before has been posted.

    A worker has at most one seat. While the connection of its session is broken the seat is held for that very session;
    a new session of that name takes it over only then.

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
        self._plan = plan
        self._workers = tuple(worker.name for worker in plan.workers)
        self._part = part
        self._post = post
        self._lock = threading.Lock()
        self._seats: dict[str, Seat] = {}
        self._addresses: dict[str, str | None] = {}
        self._left: dict[str, str] = {}
        """Worker -> its session that said goodbye last."""
        self._gone: dict[str, str] = {}
        self._completed: set[str] = set()
        self._refusals: Counter[str] = Counter()
        self._lines = Bounded()
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

    def register(
        self,
        worker: str,
        token: str,
        *,
        pid: int,
        host: str,
        deliver: Deliver,
        session: str = "",
        again: bool = False,
        attempt: int | None = None,
    ) -> Seat:
        """Admit `worker`, running as `pid` on `host`, or let a session whose connection broke go on.

        Args:
            worker: its name in the plan.
            token: the job token.
            pid: its own process id.
            host: name of its machine.
            deliver: takes the orders for this session.
            session: name of the session; one that is seated already goes on with its seat. Empty: it cannot.
            again: it has had its part of the plan, so that it may go on but not begin anew.
            attempt: counts the streams of the session; one that is not newer than the last is somebody's who has listened.
                None: nobody can listen.

        Returns:
            The seat through which the session reports; `seat.part` is the worker's part of the plan.

        Raises:
            SessionRefused: kind `token`, `name` (not in the plan), `taken` (registered and alive), `gone` (given up) or `aborted`.
        """
        peer = f"{worker!r} (process {pid} on {host})"
        self.authenticate(token, peer)
        if worker not in self._workers:
            raise self.refuse("name", f"{peer} is not a worker of this job; its workers are {_some(self._workers)}")
        part = self._part(worker)
        with self._lock:
            seat = self._seats.get(worker)
            same = seat is not None and session != "" and seat.session == session
            heard_before = same and seat is not None and attempt is not None and attempt <= seat.attempt
            if heard_before:
                objection: tuple[str, str] | None = ("taken", f"registers as it did before (stream {attempt} of its session)")
            else:
                objection = None if same else self._objection(worker, seat, again=again)
            if objection is None:
                if seat is None or not same:
                    if seat is not None:
                        reason = "its connection had broken, and another process took its place"
                        self._post(events.SessionLost(worker=worker, reason=reason, time=self.clock()))
                    self._addresses.pop(worker, None)
                    seat = self._seats[worker] = Seat(self, worker, part, session=session, late=self._started)
                    self._post(events.Registered(worker=worker, pid=pid, host=host, time=self.clock()))
                seat.attempt = attempt or 0
                seat.attach(deliver)
                standing = self._standing(seat)
        if objection is not None or seat is None:
            kind, reason = objection or ("gone", "has no seat")
            raise self.refuse(kind, f"{peer} {reason}")
        _hand_out(standing)
        return seat

    def has_left(self, worker: str, session: str) -> bool:
        """Whether this session of `worker` has said goodbye: it only missed the answer."""
        with self._lock:
            return bool(session) and self._left.get(worker) == session

    def abort(self, reason: str) -> None:
        """Tell every session to stop; sessions that come later are refused with `reason`. The first reason stays."""
        with self._lock:
            if self._aborted is not None:
                return
            self._aborted = reason
            deliveries = self._to(self._workers, Abort(reason))
        _hand_out(deliveries)

    def stop_worker(self, worker: str, reason: str) -> None:
        """Tell one session to stop; nothing happens if `worker` has none."""
        with self._lock:
            deliveries = self._to([worker], Abort(reason))
        _hand_out(deliveries)

    def vacate(self, worker: str, reason: str) -> None:
        """Give the seat of a lost worker up, without an event: the worker can be started anew. Its session is told to stop."""
        with self._lock:
            deliveries = self._clear(worker, reason)
        _hand_out(deliveries)

    def give_up(self, worker: str, reason: str) -> None:
        """Tell everybody that `worker` will not come back; its seat ends, and it is refused from now on.

        If the others have only waited for this one, they are started.
        """
        with self._lock:
            if worker in self._gone:
                return
            self._gone[worker] = reason
            deliveries = [*self._clear(worker, reason), *self._to(self._workers, Gone(worker, reason)), *self._start_if_due()]
        _hand_out(deliveries)

    def refuse(self, kind: str, reason: str) -> SessionRefused:
        """Count and log a refusal; returns the error to raise."""
        reason = readable(reason)
        with self._lock:
            self._refusals[kind] += 1
            more = self._lines.next()
        if more is not None:
            log.warning("refused: %s%s", reason, more)
        return SessionRefused(kind, reason)

    def report(self, seat: Seat, event: events.ControlEvent) -> None:
        """Post `event` of a seated worker.

        Raises:
            SessionRefused: kind `gone`: the seat was given up before.
        """
        with self._lock:
            seated = self._seats.get(seat.worker) is seat
            if seated:
                self._post(event)
            deliveries: Deliveries = []
            if seated and isinstance(event, events.StateChanged) and event.state == "completed":
                self._completed.add(seat.worker)
                deliveries = self._to_late(seat.worker)
        _hand_out(deliveries)
        if not seated:
            raise self.refuse("gone", f"{seat.worker} reports {type(event).__name__} after its session ended")

    def ready(self, seat: Seat, event: events.Ready) -> None:
        """Post `event`; when it is the last worker of the plan, start them all. One that comes late is started alone.

        The peers of a late one are told where it listens now.
        """
        self.report(seat, event)
        with self._lock:
            self._addresses[seat.worker] = event.address
            if not self._started:
                deliveries = self._start_if_due()
            else:
                deliveries = [] if seat.deliver is None else [(seat.deliver, self._start())]
                if event.address is not None:
                    deliveries += self._to(self._peers(seat.worker), Start({seat.worker: event.address}))
        _hand_out(deliveries)

    def leave(self, seat: Seat, event: events.SessionLost | events.SessionClosed) -> None:
        """Give up a seat; the first call posts `event`, later ones do nothing."""
        with self._lock:
            if self._seats.get(seat.worker) is not seat:
                return
            if isinstance(event, events.SessionClosed):
                self._left[seat.worker] = seat.session
            del self._seats[seat.worker]
            if not self._started:
                self._addresses.pop(seat.worker, None)
            self._post(event)

    def detach(self, seat: Seat, deliver: Deliver) -> int:
        """Note that the connection behind `deliver` broke; the seat is held.

        Returns:
            A number for `expire`; 0 if the seat has ended or another connection has taken over, so that nothing is to be done.
        """
        with self._lock:
            return seat.detach(deliver) if self._seats.get(seat.worker) is seat else 0

    def expire(self, seat: Seat, number: int, reason: str) -> None:
        """Give up a seat whose connection has not come back since `detach` returned `number`."""
        with self._lock:
            if self._seats.get(seat.worker) is not seat or seat.deliver is not None or seat.breaks != number:
                return
        seat.lost(reason)

    # -- with the lock held

    def _objection(self, worker: str, seat: Seat | None, *, again: bool) -> tuple[str, str] | None:
        if self._aborted is not None:
            return "aborted", f"comes after the job was stopped: {self._aborted}"
        if worker in self._gone:
            return "gone", f"was given up: {self._gone[worker]}"
        if again:
            return "gone", "comes back after its seat was given up"
        if seat is not None and (seat.deliver is not None or not seat.session):
            return "taken", "is registered already and alive"
        return None

    def _clear(self, worker: str, reason: str) -> Deliveries:
        deliveries = self._to([worker], Abort(reason))
        self._seats.pop(worker, None)
        self._addresses.pop(worker, None)
        return deliveries

    def _standing(self, seat: Seat) -> Deliveries:
        """What a session has to know that begins, or that may have missed it while its connection was broken."""
        orders: list[Order] = [Gone(worker, reason) for worker, reason in self._gone.items()]
        if self._started and seat.worker in self._addresses:
            orders.insert(0, self._start())
        if seat.late:
            orders += [Gone(worker, "it has completed") for worker in self._completed]
        if self._aborted is not None:
            orders.append(Abort(self._aborted))
        return self._to([seat.worker], *orders)

    def _start_if_due(self) -> Deliveries:
        if self._started or self._aborted is not None or not set(self._workers) <= self._addresses.keys() | self._gone.keys():
            return []
        self._started = True
        self._post(events.Started(time=self.clock()))
        return self._to(self._addresses, self._start())

    def _start(self) -> Start:
        there = {worker: address for worker, address in self._addresses.items() if worker not in self._completed}
        return Start({worker: address for worker, address in there.items() if address is not None})

    def _to(self, workers: Iterable[str], *orders: Order) -> Deliveries:
        seats = [self._seats[worker] for worker in workers if worker in self._seats]
        return [(seat.deliver, order) for seat in seats if seat.deliver is not None for order in orders]

    def _to_late(self, completed: str) -> Deliveries:
        """Those who came after the start may still look for a worker that has said goodbye to the others."""
        late = [seat.worker for seat in self._seats.values() if seat.late and seat.worker != completed]
        return self._to(late, Gone(completed, "it has completed"))

    def _peers(self, worker: str) -> set[str]:
        groups = self._plan.worker(worker).groups
        return {end for channel in groups for end in self._plan.ends(worker, channel)}


def _hand_out(deliveries: Deliveries) -> None:
    for deliver, order in deliveries:
        deliver(order)


def _some(names: tuple[str, ...], most: int = 8) -> str:
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest
