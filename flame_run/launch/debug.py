"""`launcher=debug`: every worker a thread of the runner's own process, one at a time, so that a breakpoint just works."""

import os
import threading
import traceback
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, JobStatus, run_job, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict, read_write

from flame_run.launch.baton import RANDOM, Baton
from flame_run.launch.compose import JobConfig, compose_jobs
from flame_run.launch.crew import Observer
from flame_run.launch.errors import LaunchError, WorkerDied

if TYPE_CHECKING:
    from transports.inproc import Hub


class CurrentHydraConfig:
    """What `HydraConfig.get()` answers: each worker's own."""

    def save(self) -> Any:
        """Return the configuration now."""
        return HydraConfig.instance().cfg

    def restore(self, state: Any) -> None:
        """Set the configuration."""
        HydraConfig.instance().cfg = state


class DebugLauncher(Launcher):
    """Runs every job in a thread; `gate` lets one at a time run between its waits.

    The worker's endpoint has to be an in-process one made with `hub` and `gate`. Signals, the working folder, environment
    variables and logging are shared by all workers and left alone.

    Args:
        observer: told of every start and end of a job, with this process's own id.

    """

    def __init__(self, observer: Observer | None = None) -> None:
        self.observer = observer
        self.gate = Baton((*RANDOM, CurrentHydraConfig()))
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
        for index, job in enumerate(jobs):
            queued = threading.Event()
            threading.Thread(
                target=self._work,
                args=(index, job, partial(_run, job, context, task), outcomes, queued),
                name=job.label,
                daemon=True,
            ).start()
            # The line forms in the order of the jobs, so that two runs take the same turns.
            queued.wait()
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

    def _work(
        self,
        index: int,
        job: JobConfig,
        run: Callable[[], JobReturn],
        outcomes: list[JobReturn | None],
        queued: threading.Event,
    ) -> None:
        try:
            with self.gate.held(on_line=queued.set):
                self._observe(index, "started")
                outcome = run()
        except BaseException as error:  # noqa: BLE001 - whatever ends a worker's thread is its result
            outcome = _failed(job, error)
        self._observe(index, f"exit {int(outcome.status is not JobStatus.COMPLETED)}")
        with self._changed:
            outcomes[index] = outcome
            self._changed.notify_all()

    def _observe(self, index: int, what: str) -> None:
        if self.observer is not None:
            self.observer(index, os.getpid(), what)


def _run(job: JobConfig, context: HydraContext, task: TaskFunction) -> JobReturn:
    config = job.build()
    with read_write(config), open_dict(config):
        # The working folder belongs to all threads.
        config.hydra.job.chdir = False
    return run_job(
        task_function=task,
        config=config,
        job_dir_key="hydra.sweep.dir",
        job_subdir_key="hydra.sweep.subdir",
        hydra_context=context,
        configure_logging=False,
    )


def _failed(job: JobConfig, error: BaseException) -> JobReturn:
    if isinstance(error, SystemExit):
        error = WorkerDied(f"{job.label}: ended by sys.exit({error.code!r})")
    elif not isinstance(error, Exception):
        error = WorkerDied(f"{job.label}: {''.join(traceback.format_exception(error)).rstrip()}")
    return JobReturn(overrides=list(job.overrides), status=JobStatus.FAILED, _return_value=error)


def _cut_off(job: JobConfig) -> JobReturn:
    return _failed(job, WorkerDied(f"{job.label}: the launcher was told to kill all workers"))
