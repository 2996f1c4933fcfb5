"""What sessions have in common whose reports and orders travel as bytes: one envelope for each, see `wire`."""

import json
import threading
from abc import abstractmethod
from collections.abc import Mapping
from concurrent.futures import Future
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

from flame_run.control import control_pb2 as pb
from flame_run.control import wire
from flame_run.control.errors import ControlError, ControlTimeout, SessionAborted, SessionRefused
from flame_run.control.limits import ControlLimits
from flame_run.control.session import Session

if TYPE_CHECKING:
    # Importing it would import torch.
    from transports.base import Gate

LEAST_HEARTBEAT = 0.01
"""Seconds; more often no controller can ask for signs of life."""


class WiredSession(Session):
    """Encodes reports, and does what orders say.

    Args:
        worker: name in the plan.
        address: where the controller is.
        limits: bounds on what both sides may say.
        gate: surrounds the blocking waits, where only one worker may run at a time.
    """

    def __init__(self, worker: str, address: str, *, limits: ControlLimits | None = None, gate: "Gate | None" = None) -> None:
        super().__init__(worker)
        self._address = address
        self._limits = limits or ControlLimits()
        self._gate = gate
        self._part: Future[dict[str, Any]] = Future()
        self._start: Future[dict[str, str]] = Future()
        self._farewell: Future[None] = Future()
        self._settle_lock = threading.Lock()
        self._opened = self._closed = False

    @abstractmethod
    def _register(self, timeout: float) -> None:
        """Say who this is, `timeout` seconds being the time to get an answer; returns at once."""

    def _part_well(self, timeout: float) -> None:
        """The controller has said farewell."""

    @abstractmethod
    def _end(self) -> None:
        """Let go of everything."""

    @abstractmethod
    def _transmit(self, report: bytes, *, may_wait: bool) -> None:
        """Let a report go out after those before it; `may_wait`: a moment, so that others travel with it."""

    def _take_heartbeat(self, seconds: float) -> None:
        """Take how long either side may be silent."""

    def open(self, timeout: float) -> Mapping[str, Any]:
        """See `Session.open`."""
        self._register(timeout)
        try:
            with self._waiting():
                return self._part.result(timeout)
        except TimeoutError:
            what = f"registering {self.worker} with the controller at {self._address}"
            raise ControlTimeout(f"{what} took longer than {timeout:g} s") from None

    def close(self, timeout: float = 10.0) -> None:
        """See `Session.close`."""
        if self._closed:
            return
        try:
            if self._opened:
                self._send(wire.goodbye())
                with self._waiting():
                    self._farewell.result(timeout)
                self._part_well(timeout)
        except TimeoutError:
            raise ControlTimeout(f"{self.worker} waited {timeout:g} s for the controller to acknowledge its last reports") from None
        finally:
            self._closed = True
            self._end()

    def ready(self, address: str | None) -> None:
        """See `Session.ready`."""
        self._send(wire.ready(address))

    def wait_start(self, timeout: float) -> dict[str, str]:
        """See `Session.wait_start`."""
        try:
            with self._waiting():
                return self._start.result(timeout)
        except TimeoutError:
            raise ControlTimeout(f"{self.worker} waited {timeout:g} s for every worker to be ready") from None

    def state(self, state: str, *, round_: int | None = None, error: str | None = None, secondary: bool = False) -> None:
        """See `Session.state`."""
        self._send(wire.state(state, round_, error, secondary), may_wait=state == "running")

    def metrics(self, round_: int | None, values: Mapping[str, float]) -> None:
        """See `Session.metrics`."""
        self._send(wire.metrics(round_, values), may_wait=True)

    def progress(self, epoch: int, epochs: int) -> None:
        """See `Session.progress`."""
        self._send(wire.progress(epoch, epochs), may_wait=True)

    def result(self, result: Mapping[str, Any]) -> None:
        """See `Session.result`."""
        self._send(wire.result(result))

    def _waiting(self) -> AbstractContextManager[None]:
        return nullcontext() if self._gate is None else self._gate.released()

    def _send(self, data: bytes, *, may_wait: bool = False) -> None:
        if not self._opened or self._closed:
            raise RuntimeError(f"the session of {self.worker} is not open")
        if len(data) > self._limits.max_report_bytes:
            reason = f"{self.worker} cannot report {len(data)} bytes at once (at most {self._limits.max_report_bytes})"
            raise SessionRefused("oversized", reason)
        self._transmit(data, may_wait=may_wait)

    def _obey(self, order: pb.Order) -> None:
        """Do what `order` says.

        Raises:
            ValueError: it is none.
        """
        match order.WhichOneof("body"):
            case "part":
                self._take_part(order.part)
            case "start":
                self._settle(self._start, self._note_addresses(dict(order.start.addresses)))
            case "gone":
                self._note_gone(order.gone.worker, order.gone.reason)
            case "abort":
                self._settle(self._start, SessionAborted(order.abort.reason))
                self._abort(order.abort.reason)
            case "farewell":
                self._settle(self._farewell, None)
            case body:
                raise ValueError(f"unexpected {body}")

    def _take_part(self, body: pb.Part) -> None:
        try:
            part = json.loads(body.json)
        except RecursionError as error:
            raise ValueError("a part that nests without end") from error
        if not isinstance(part, dict) or not LEAST_HEARTBEAT <= body.heartbeat <= threading.TIMEOUT_MAX:
            raise ValueError(f"a part that is none, or a heartbeat of {body.heartbeat} s")
        self._take_heartbeat(body.heartbeat)
        self._opened = True
        self._settle(self._part, part)

    def _lose(self, error: ControlError) -> None:
        """End every wait with `error`, and tell; nothing is left to lose after the farewell."""
        if self._farewell.done() or self._closed:
            return
        for future in (self._part, self._start, self._farewell):
            self._settle(future, error)
        if self._opened:
            self._abort(str(error))

    def _settle(self, future: "Future[Any]", value: object) -> None:
        with self._settle_lock:
            if future.done():
                return
            if isinstance(value, Exception):
                future.set_exception(value)
            else:
                future.set_result(value)
