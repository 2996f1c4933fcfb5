"""A session over a pipe, which carries those of all workers of a process."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from flame_run.control import wire
from flame_run.control.errors import ControlError, ControlTimeout
from flame_run.control.wired_session import WiredSession

if TYPE_CHECKING:
    # Importing them would import torch and grpc.
    from flame_run.control.pipe import Pipe
    from transports.base import Gate
    from transports.grpc_channel.security import Security


class PipeSession(WiredSession):
    """Speaks to a `PipeServer`; made by `Pipe.session`.

    Args:
        pipe: the connection of this process to the controller.
        worker: name in the plan.
        gate: surrounds the blocking waits, where only one worker may run at a time.
        security: protects the worker's other connections; closed with the session.
    """

    def __init__(self, pipe: "Pipe", worker: str, *, gate: "Gate | None" = None, security: "Security | None" = None) -> None:
        super().__init__(worker, limits=pipe.limits, gate=gate)
        self.security = security
        self._pipe = pipe
        self._number = 0
        """Of this session in the pipe; 0 before it is opened."""

    def open(self, timeout: float) -> Mapping[str, Any]:
        """See `Session.open`."""
        self._number = self._pipe.join(self)
        try:
            with self._waiting():
                return self._part.result(timeout)
        except TimeoutError:
            what = f"registering {self.worker} with the controller at {self._pipe.address}"
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
        except TimeoutError:
            raise ControlTimeout(f"{self.worker} waited {timeout:g} s for the controller to acknowledge its last reports") from None
        finally:
            self._closed = True
            if self._number:
                self._pipe.leave(self._number, None if self._farewell.done() else "its session was closed without a goodbye")
            if self.security is not None:
                self.security.close()

    def take(self, order: bytes) -> None:
        """Do what the controller says; called by the pipe.

        Raises:
            ValueError: it is no order.
        """
        self._obey(wire.parse_order(order))

    def lose(self, error: ControlError) -> None:
        """End every wait with `error`; called by the pipe."""
        self._lose(error)

    def _transmit(self, report: bytes, *, may_wait: bool) -> None:
        self._pipe.send(self._number, report, may_wait=may_wait)
