"""Jobs as threads of one process, one at a time between their waits."""

import threading
import traceback
from collections.abc import Callable, Sequence
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, JobStatus, run_job
from hydra.types import HydraContext, TaskFunction
from omegaconf import open_dict, read_write

from flame_run.launch.baton import RANDOM, Baton
from flame_run.launch.compose import JobConfig
from flame_run.launch.errors import WorkerDied
from flame_run.launch.turns import Turn


class CurrentHydraConfig:
    """What `HydraConfig.get()` answers: each worker's own."""

    def save(self) -> Any:
        """Return the configuration now."""
        return HydraConfig.instance().cfg

    def restore(self, state: Any) -> None:
        """Set the configuration."""
        HydraConfig.instance().cfg = state


def make_baton(mark: Callable[[Turn], None] = lambda _: None, long: float | None = None) -> Baton:
    """A baton for jobs: each has its own random numbers and its own Hydra configuration; `mark` and `long`: see `Baton`."""
    return Baton((*RANDOM, CurrentHydraConfig()), mark=mark, long=long)


def start_threads(
    jobs: Sequence[JobConfig],
    run: Callable[[JobConfig], JobReturn],
    gate: Baton,
    *,
    began: Callable[[int], None],
    ended: Callable[[int, JobReturn], None],
) -> None:
    """Start a thread for each job; `began` and `ended` are called in it, with the place of the job in `jobs`."""
    for place, job in enumerate(jobs):
        queued = threading.Event()

        def body(place: int = place, job: JobConfig = job, queued: threading.Event = queued) -> None:
            try:
                with gate.held(on_line=queued.set):
                    began(place)
                    outcome = run(job)
            except BaseException as error:  # noqa: BLE001 - whatever ends a worker's thread is its result
                outcome = failed(job, error)
            ended(place, outcome)

        threading.Thread(target=body, name=job.label, daemon=True).start()
        # The line forms in the order of the jobs, so that two runs take the same turns.
        queued.wait()


def run_all(jobs: Sequence[JobConfig], run: Callable[[JobConfig], JobReturn], gate: Baton) -> list[JobReturn]:
    """Run the jobs in threads and wait for all of them, however long they take; their results in order."""
    outcomes: dict[int, JobReturn] = {}
    changed = threading.Condition()

    def ended(place: int, outcome: JobReturn) -> None:
        with changed:
            outcomes[place] = outcome
            changed.notify_all()

    start_threads(jobs, run, gate, began=lambda _: None, ended=ended)
    with changed:
        changed.wait_for(lambda: len(outcomes) == len(jobs))
    return [outcomes[place] for place in range(len(jobs))]


def run_in_thread(job: JobConfig, context: HydraContext, task: TaskFunction) -> JobReturn:
    """Do what Hydra does for a job, but for what belongs to all threads: the working folder and logging."""
    config = job.build()
    with read_write(config), open_dict(config):
        config.hydra.job.chdir = False
    return run_job(
        task_function=task,
        config=config,
        job_dir_key="hydra.sweep.dir",
        job_subdir_key="hydra.sweep.subdir",
        hydra_context=context,
        configure_logging=False,
    )


def failed(job: JobConfig, error: BaseException) -> JobReturn:
    """The result of a job that ended with `error`."""
    if isinstance(error, SystemExit):
        error = WorkerDied(f"{job.label}: ended by sys.exit({error.code!r})")
    elif not isinstance(error, Exception):
        error = WorkerDied(f"{job.label}: {''.join(traceback.format_exception(error)).rstrip()}")
    return JobReturn(overrides=list(job.overrides), status=JobStatus.FAILED, _return_value=error)
