"""Where worker processes begin. Importable without torch, so that launchers can pass it by name."""

import logging
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from transports.grpc_channel.forks import tolerate_forks

if TYPE_CHECKING:
    from flame_run.launch.baton import Baton

LOG_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


def work_in_process(cfg: DictConfig) -> None:
    """Be one worker in a process of its own, its output in its log; see `flame_run.run.worker.work`."""
    tolerate_forks()
    log_to(Path(HydraConfig.get().runtime.output_dir) / "worker.log")
    try:
        from flame_run.run.worker import work  # noqa: PLC0415 - imports torch, in the worker only
    except Exception:
        traceback.print_exc()
        raise
    try:
        _told(work, cfg)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


class WorkInCohort:
    """The task function of `launcher=cohort`: one worker in a process of its own, or several `together`."""

    def __call__(self, cfg: DictConfig) -> None:
        """Be one worker in a process of its own."""
        with self._workers(None) as work:
            work(cfg)

    @contextmanager
    def together(self, gate: "Baton") -> Iterator[Callable[[DictConfig], None]]:
        """What each thread of a process calls, of which `gate` lets one run at a time."""
        with self._workers(gate) as work:
            yield work

    @contextmanager
    def _workers(self, gate: "Baton | None") -> Iterator[Callable[[DictConfig], None]]:
        tolerate_forks()
        from flame_run.run.in_cohort import InCohort  # noqa: PLC0415 - imports torch, in the workers only
        from flame_run.run.worker import work  # noqa: PLC0415

        place = InCohort(gate)
        try:
            yield lambda cfg: _told(lambda cfg: work(cfg, place), cfg)
        finally:
            place.close()


def _told(work: Callable[[DictConfig], None], cfg: DictConfig) -> None:
    """Do the work; what is no failure of the role, which is in the log already, is printed."""
    from flame_run.run.worker import WorkerFailed  # noqa: PLC0415

    try:
        work(cfg)
    except WorkerFailed:
        raise
    except Exception:
        traceback.print_exc()
        raise


def log_to(path: Path) -> None:
    """Send standard output, standard error and the log of this process to `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.close(file)
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format=LOG_FORMAT, force=True)
