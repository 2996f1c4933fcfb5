"""A worker: registers with the controller, opens its channels, runs its role, reports how it ended.

This is the task function that every launcher calls, in a process of its own or (`launcher=debug`) in a thread.
"""

import logging
import threading
import traceback
import warnings
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from flame_run import torchvision_guard
from flame_run.control.session import Session
from flame_run.errors import FlameRunError
from flame_run.run.refusals import METRIC as REFUSED
from flame_run.run.workplace import OwnProcess, Workplace
from transports.base import Endpoint

log = logging.getLogger(__name__)


class WorkerFailed(FlameRunError):
    """A worker's role raised; the text says what."""


def work(cfg: DictConfig, workplace: Workplace | None = None) -> None:
    """Be the worker `cfg.worker.name` from start to end; `workplace`: where, unless in a process of its own.

    Raises:
        WorkerFailed: the role failed; the controller has been told.
    """
    torchvision_guard.install()
    quieten()
    workplace = workplace or OwnProcess()
    output = Path(HydraConfig.get().runtime.output_dir)
    with workplace.attended(str(cfg.worker.name), output), closing(workplace.session(cfg)) as session:
        part = session.open(cfg.faults.join_timeout)
        perform(part, session, cfg.faults.join_timeout, workplace)


def quieten() -> None:
    """Keep Lightning from advertising itself, and from a warning about its own use of torch, in every worker."""
    for name in ("lightning", "lightning.pytorch"):
        logging.getLogger(name).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message=r".*LeafSpec.* is deprecated", category=FutureWarning)


def in_words(error: BaseException) -> str:
    """What the controller is told of `error`."""
    return "".join(traceback.format_exception_only(error)).strip()


def perform(
    part: Mapping[str, Any],
    session: Session,
    timeout: float,
    workplace: Workplace,
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
        session.on_abort = _Stopper(assembly.endpoint, assembly.aborted, workplace)
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
            with workplace.waiting():
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
    """Ends this worker's waits when the controller says so, and its process, where it is its own, if it does not unwind in time."""

    def __init__(self, endpoint: Endpoint, aborted: threading.Event, workplace: Workplace) -> None:
        self._endpoint = endpoint
        self._aborted = aborted
        self._workplace = workplace

    def __call__(self, reason: str) -> None:
        self._aborted.set()
        self._endpoint.abort(reason)
        self._workplace.stopping(self._endpoint.name)
