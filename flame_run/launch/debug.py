"""`launcher=debug`: every worker a thread of the runner's own process, one at a time, so that a breakpoint just works."""

import os
import threading
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from hydra.core.utils import JobReturn, JobStatus, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from flame_run.launch.compose import JobConfig, compose_jobs
from flame_run.launch.crew import Observer
from flame_run.launch.errors import LaunchError, WorkerDied
from flame_run.launch.threads import failed, make_baton, run_in_thread, start_threads

if TYPE_CHECKING:
    from transports.inproc import Hub


class DebugLauncher(Launcher):
    """Runs every job in a thread; `gate` lets one at a time run between its waits.

    The worker's endpoint has to be an in-process one made with `hub` and `gate`. Signals, the working folder, environment
    variables and logging are shared by all workers and left alone.

    Args:
        observer: told of every start and end of a job, with this process's own id.

    """

    def __init__(self, observer: Observer | None = None) -> None:
        self.observer = observer
        self.gate = make_baton()
        self._hub: Hub | None = None
        self._killed = threading.Event()
        self._changed = threading.Condition()
        self._setup: tuple[HydraContext, TaskFunction, DictConfig] | None = None

    @property
    def hub(self) -> "Hub":
        """Where the workers' in-process endpoints meet."""
        if self._hub is None:
            from transports.inproc import Hub  # noqa: PLC0415 - needs torch, which the command line does not import

            self._hub = Hub()
        return self._hub

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Take what `launch` needs; see Hydra's `Launcher`."""
        self._setup = (hydra_context, task_function, config)

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run the jobs in threads and wait for all of them, or for `kill`.

        Returns:
            One `JobReturn` a job, in order; failed with the exception that the job raised.

        Raises:
            hydra.errors.ConfigCompositionException: an override that does not fit.

        """
        if self._setup is None:
            raise LaunchError("setup() of the launcher was not called")
        context, task, config = self._setup
        setup_globals()
        Path(str(config.hydra.sweep.dir)).mkdir(parents=True, exist_ok=True)
        jobs = compose_jobs(context, config, job_overrides, initial_job_idx)
        outcomes: list[JobReturn | None] = [None] * len(jobs)
        ended = partial(self._ended, outcomes)
        start_threads(jobs, partial(run_in_thread, context=context, task=task), self.gate, began=self._began, ended=ended)
        with self._changed:
            # A person at a breakpoint may take any time; `kill` is what ends this wait.
            self._changed.wait_for(lambda: self._killed.is_set() or all(outcomes))
        return [outcome or _cut_off(job) for job, outcome in zip(jobs, outcomes, strict=True)]

    def kill(self) -> None:
        """End every worker at its next wait and let `launch` return; a running worker cannot be interrupted."""
        self._killed.set()
        self.gate.break_off("the launcher was told to kill all workers")
        with self._changed:
            self._changed.notify_all()

    def shutdown(self) -> None:
        """End what is left; the threads end with the process."""
        self.kill()

    def _began(self, index: int) -> None:
        self._observe(index, "started")

    def _ended(self, outcomes: list[JobReturn | None], index: int, outcome: JobReturn) -> None:
        self._observe(index, f"exit {int(outcome.status is not JobStatus.COMPLETED)}")
        with self._changed:
            outcomes[index] = outcome
            self._changed.notify_all()

    def _observe(self, index: int, what: str) -> None:
        if self.observer is not None:
            self.observer(index, os.getpid(), what)


def _cut_off(job: JobConfig) -> JobReturn:
    return failed(job, WorkerDied(f"{job.label}: the launcher was told to kill all workers"))
