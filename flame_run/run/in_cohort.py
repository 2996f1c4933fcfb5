"""Workers that are threads of one of a few processes (`launcher=cohort`): what they share there."""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig
from typing_extensions import override

from flame_run.control.pipe import Pipe
from flame_run.control.rendezvous import read_rendezvous
from flame_run.control.session import Session
from flame_run.data.shelf import Shelf
from flame_run.launch.baton import Baton
from flame_run.run.stops import Stops
from flame_run.run.thread_output import ThreadOutput
from flame_run.run.turn_log import TurnLog
from flame_run.run.workplace import Workplace, exit_now, grpc_endpoint
from flame_run.security.job import security_of
from transports.base import Endpoint
from transports.grpc_channel.loop import LoopThread

if TYPE_CHECKING:
    from roles.fitters import Fitters


class InCohort(Workplace):
    """One socket to the controller and one loop for all connections of the process.

    Args:
        gate: lets one worker run at a time; None where there is only one.
    """

    def __init__(self, gate: Baton | None) -> None:
        self.shared = gate is not None
        self._gate = gate
        self._loop = LoopThread("flame-run cohort")
        self._output = ThreadOutput()
        self._shelf = Shelf()
        self._pipe: Pipe | None = None
        self._tls: Mapping[str, str | None] | None = None
        self._patience = 0.0
        self._stops = Stops(gate, self._end_by_force)
        self._turns = TurnLog(gate)

    @cached_property
    def fitters(self) -> "Fitters":
        """One for all."""
        return super().fitters

    def close(self) -> None:
        """Let go of what the workers shared; all of them have ended."""
        with ExitStack() as stack:
            stack.callback(self._output.restore)
            stack.callback(self._loop.close)
            stack.callback(self._turns.close)
            if self._pipe is not None:
                stack.callback(self._pipe.close)

    @override
    def session(self, cfg: DictConfig) -> Session:
        name = str(cfg.worker.name)
        if self._pipe is None:
            self._patience = cfg.faults.heartbeat
            address, token, self._tls = read_rendezvous(Path(cfg.worker.rendezvous))
            self._pipe = Pipe(address, token, timeout=cfg.faults.join_timeout)
        security = None if self._tls is None else security_of(self._tls, name)
        return self._pipe.session(name, gate=self._gate, security=security)

    @override
    def endpoint(self, part: Mapping[str, Any], session: Session) -> Endpoint:
        return grpc_endpoint(part, session, gate=self._gate, loop=self._loop)

    @override
    @contextmanager
    def attended(self, worker: str, output: Path) -> Iterator[None]:
        log = output / "worker.log"
        self._output.go_to(log)
        with self._stops.attended(worker), self._turns.attended(worker, log), self._shelf.used():
            yield

    @override
    def waiting(self) -> AbstractContextManager[object]:
        return nullcontext() if self._gate is None else self._gate.released()

    @override
    def stopping(self, worker: str) -> None:
        """The process ends by force only if nobody in it can go on: one that lingers does not take the others along."""
        self._stops.tell(worker, self._patience)

    def _end_by_force(self, why: str) -> None:
        self._output.flush_all()
        exit_now(why)
