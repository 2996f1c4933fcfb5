"""A session over a pipe, which carries those of all workers of a process."""

from typing import TYPE_CHECKING

from typing_extensions import override

from flame_run.control import wire
from flame_run.control.errors import ControlError
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
        super().__init__(worker, pipe.address, limits=pipe.limits, gate=gate)
        self.security = security
        self._pipe = pipe
        self._number = 0
        """Of this session in the pipe; 0 before it is opened."""

    @override
    def _register(self, timeout: float) -> None:
        self._number = self._pipe.join(self)

    @override
    def _end(self) -> None:
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

    @override
    def _transmit(self, report: bytes, *, may_wait: bool) -> None:
        self._pipe.send(self._number, report, may_wait=may_wait)
