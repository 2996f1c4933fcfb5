"""A worker: registers with the controller, opens its channels, runs its role, reports how it ended.

This is the task function that every launcher calls, in a process of its own or (`launcher=debug`) in a thread.
"""

import logging
import os
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from flame_run import torchvision_guard
from flame_run.control.session import Session
from flame_run.errors import FlameRunError
from flame_run.run.refusals import METRIC as REFUSED
from flame_run.run.workplace import Workplace
from transports.base import Endpoint

log = logging.getLogger(__name__)
GRACE = 2.0
"""Seconds that a stopped worker has to unwind before its process is ended."""


class WorkerFailed(FlameRunError):
    """A worker's role raised; the text says what."""


def work(cfg: DictConfig, *, workplace: Workplace | None = None) -> None:
    """Be the worker `cfg.worker.name` from start to end.

    Raises:
        WorkerFailed: the role failed; the controller has been told.
    """
    torchvision_guard.install()
    quieten()
    session = _session(cfg, workplace)
    with _log_of_thread() if workplace is not None else nullcontext():
        try:
            part = session.open(cfg.faults.join_timeout)
            perform(part, session, cfg.faults.join_timeout, workplace)
        finally:
            session.close()


def quieten() -> None:
    """Keep Lightning from advertising itself, and from a warning about its own use of torch, in every worker."""
    for name in ("lightning", "lightning.pytorch"):
        logging.getLogger(name).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message=r".*LeafSpec.* is deprecated", category=FutureWarning)


@contextmanager
def _log_of_thread() -> Iterator[None]:
    """Send what this thread logs to the worker's own log; what it prints stays on the console, for a debugger."""
    path = Path(HydraConfig.get().runtime.output_dir) / "worker.log"
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


def _session(cfg: DictConfig, workplace: Workplace | None) -> Session:
    name = str(cfg.worker.name)
    if workplace is not None:
        from flame_run.control.local_session import LocalSession  # noqa: PLC0415 - each launcher loads its own kind

        return LocalSession(workplace.controller, name, gate=workplace.gate)
    from flame_run.control.grpc_session import GrpcSession  # noqa: PLC0415
    from flame_run.control.rendezvous import read_rendezvous  # noqa: PLC0415
    from flame_run.security.job import security_of  # noqa: PLC0415

    address, token, tls = read_rendezvous(Path(cfg.worker.rendezvous))
    return GrpcSession(address, token, name, security=None if tls is None else security_of(tls, name))


def in_words(error: BaseException) -> str:
    """What the controller is told of `error`."""
    return "".join(traceback.format_exception_only(error)).strip()


def perform(
    part: Mapping[str, Any],
    session: Session,
    timeout: float,
    workplace: Workplace | None,
    tell: Callable[[BaseException], str] = in_words,
) -> None:
    """Do a worker's part of the plan; `tell` says what the controller hears of an error, the log has all of it.

    Raises:
        WorkerFailed: the role failed; the controller has been told.
    """
    assembly = None
    try:
        from flame_run.run.assemble import Assembly  # noqa: PLC0415 - imports Lightning; what fails there is reported

        assembly = Assembly(part, session, workplace)
        session.on_abort = _Stopper(assembly.endpoint, assembly.aborted, in_process=workplace is None)
        session.on_gone = _Hearing(assembly.endpoint).gone
        session.on_addresses = _Hearing(assembly.endpoint).addresses
        session.ready(assembly.endpoint.address)
        session.wait_start(timeout)
        assembly.role().run()
    except BaseException as error:
        if session.aborted is not None:
            session.state("terminated", error=session.aborted)
            log.info("stopped: %s", session.aborted)
            return
        text = tell(error)
        log.exception("the worker failed")
        if assembly is not None:
            # Peers are not to take it for a goodbye: this worker may be started anew.
            assembly.endpoint.abort(text)
        session.state("failed", error=text, secondary=_secondary(error))
        raise WorkerFailed(text) from None
    finally:
        if assembly is not None:
            assembly.endpoint.close()
            _tell_refused(session, assembly.endpoint)
    session.state("completed")


def _tell_refused(session: Session, endpoint: Endpoint) -> None:
    if session.security is not None:
        session.security.close()  # what it has not reported so far counts too
    if endpoint.refused:
        session.metrics(None, {REFUSED: endpoint.refused})


def _secondary(error: BaseException) -> bool:
    """Whether the error only says that somebody else has failed."""
    from roles.errors import RoundFailed  # noqa: PLC0415
    from transports.errors import PeerLost  # noqa: PLC0415

    return isinstance(error, PeerLost) or (isinstance(error, RoundFailed) and error.lost)


class _Hearing:
    """What the endpoint learns of its peers from the controller, in a thread of the session."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint

    def gone(self, worker: str, reason: str) -> None:
        self._endpoint.forget(worker, reason)

    def addresses(self, addresses: Mapping[str, str]) -> None:
        from transports.errors import Aborted, AddressError  # noqa: PLC0415

        try:
            self._endpoint.connect(addresses)
        except AddressError as error:
            self._endpoint.abort(str(error))
        except Aborted:
            log.info("the addresses of %s come after the end", ", ".join(addresses))


class _Stopper:
    """Ends this worker's waits when the controller says so, and its process if it does not unwind in time."""

    def __init__(self, endpoint: Endpoint, aborted: threading.Event, *, in_process: bool) -> None:
        self._endpoint = endpoint
        self._aborted = aborted
        self._in_process = in_process

    def __call__(self, reason: str) -> None:
        self._aborted.set()
        self._endpoint.abort(reason)
        if self._in_process:
            last_resort = threading.Timer(GRACE, self._exit)
            last_resort.daemon = True
            last_resort.start()

    @staticmethod
    def _exit() -> None:
        log.warning("ended by force: the worker did not stop within %g s", GRACE)
        logging.shutdown()
        sys.stdout.flush()
        os._exit(1)
