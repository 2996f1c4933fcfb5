"""A session without a network, for workers that are threads of the runner's process."""

import os
import socket
import threading
import time
from collections.abc import Mapping
from concurrent.futures import Future
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

from flame_run.control.controller import Controller
from flame_run.control.errors import ControlTimeout, SessionAborted
from flame_run.control.orders import Abort, Gone, Order, Start
from flame_run.control.seat import Seat
from flame_run.control.session import Session

if TYPE_CHECKING:
    # Importing it would import torch.
    from transports.base import Gate


class LocalSession(Session):
    """Reports straight to a controller of the same process.

    Args:
        controller: the controller of the job.
        worker: name in the plan.
        gate: surrounds the blocking wait, where only one worker may run at a time.
    """

    def __init__(self, controller: Controller, worker: str, *, gate: "Gate | None" = None) -> None:
        super().__init__(worker)
        self._controller = controller
        self._gate = gate
        self._start: Future[dict[str, str]] = Future()
        self._order_lock = threading.Lock()
        self._seat: Seat | None = None
        self._closed = False

    def open(self, timeout: float) -> Mapping[str, Any]:  # noqa: ARG002 - nothing here can block
        """Register; see `Session.open`."""
        self._seat = self._controller.register(
            self.worker, self._controller.token, pid=os.getpid(), host=socket.gethostname(), deliver=self._take
        )
        return self._seat.part

    def ready(self, address: str | None) -> None:
        """See `Session.ready`."""
        self._seated.ready(address)

    def wait_start(self, timeout: float) -> dict[str, str]:
        """See `Session.wait_start`."""
        try:
            with nullcontext() if self._gate is None else self._gate.released():
                return self._start.result(timeout)
        except TimeoutError:
            raise ControlTimeout(f"{self.worker} waited {timeout:g} s for every worker to be ready") from None

    def state(self, state: str, *, round_: int | None = None, error: str | None = None, secondary: bool = False) -> None:
        """See `Session.state`."""
        self._seated.state(state, round_=round_, error=error, secondary=secondary)

    def metrics(self, round_: int | None, values: Mapping[str, float]) -> None:
        """See `Session.metrics`."""
        self._seated.metrics(round_, values, time.time())

    def progress(self, epoch: int, epochs: int) -> None:
        """See `Session.progress`."""
        self._seated.progress(epoch, epochs)

    def result(self, result: Mapping[str, Any]) -> None:
        """See `Session.result`."""
        self._seated.result(result)

    def close(self, timeout: float = 10.0) -> None:  # noqa: ARG002 - nothing here can block
        """See `Session.close`."""
        if self._seat is not None and not self._closed:
            self._seat.goodbye()
        self._closed = True

    @property
    def _seated(self) -> Seat:
        if self._seat is None:
            raise RuntimeError(f"the session of {self.worker} is not open")
        return self._seat

    def _take(self, order: Order) -> None:
        match order:
            case Start(addresses):
                known = self._note_addresses(addresses)
                with self._order_lock:
                    if not self._start.done():
                        self._start.set_result(known)
            case Gone(worker, reason):
                self._note_gone(worker, reason)
            case Abort(reason):
                with self._order_lock:
                    if not self._start.done():
                        self._start.set_exception(SessionAborted(reason))
                self._abort(reason)
