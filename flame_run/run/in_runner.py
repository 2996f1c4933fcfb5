"""A worker that is a thread of the runner's process (`launcher=debug`)."""

import logging
import threading
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig
from typing_extensions import override

from flame_run.control.controller import Controller
from flame_run.control.local_session import LocalSession
from flame_run.control.session import Session
from flame_run.run.workplace import Workplace
from transports.base import Endpoint, Gate
from transports.inproc import Hub, InprocEndpoint

if TYPE_CHECKING:
    from roles.fitters import Fitters


@dataclass(frozen=True, kw_only=True)
class InRunner(Workplace):
    """Where such workers meet each other and the controller, and who of them may run."""

    controller: Controller
    hub: Hub
    gate: Gate
    shared: bool = True

    @override
    def session(self, cfg: DictConfig) -> Session:
        return LocalSession(self.controller, str(cfg.worker.name), gate=self.gate)

    @override
    def endpoint(self, part: Mapping[str, Any], session: Session) -> Endpoint:
        return InprocEndpoint(part["worker"]["name"], self.hub, gate=self.gate)

    @cached_property
    def fitters(self) -> "Fitters":
        """One for all."""
        return super().fitters

    @override
    def attended(self, worker: str, output: Path) -> AbstractContextManager[object]:
        return _log_of_thread(output / "worker.log")


@contextmanager
def _log_of_thread(path: Path) -> Iterator[None]:
    """Send what this thread logs to the worker's own log; what it prints stays on the console, for a debugger."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    mine = threading.get_ident()
    handler.addFilter(lambda record: record.thread == mine)
    logging.getLogger().addHandler(handler)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(handler)
        handler.close()
