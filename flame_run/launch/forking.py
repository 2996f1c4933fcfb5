"""What the launchers have in common that fork workers from a server which has done the imports.

This module imports no torch; the fork server does.
"""

import os
import threading
from collections.abc import Sequence
from pathlib import Path

from hydra.core.utils import JobReturn, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from flame_run.launch.compose import JobConfig, compose_jobs
from flame_run.launch.config import PRELOAD
from flame_run.launch.crew import Crew, Observer
from flame_run.launch.errors import LaunchError
from flame_run.launch.forkserver import SERVERS
from flame_run.launch.job import Work, write_payload


def warm(preload: Sequence[str] = PRELOAD) -> None:
    """Start a fork server with these imports, unless an idle one is there; returns at once."""
    SERVERS.put(SERVERS.take(preload))


class ForkingLauncher(Launcher):
    """Runs every job in a process of its own, all at the same time; a subclass may put several into one process.

    Args:
        preload: modules that the fork server imports before it forks.
        import_timeout: longest wait for them, seconds.
        observer: told of every start and end of a process, from the thread that runs `launch`.

    """

    def __init__(self, preload: Sequence[str] = PRELOAD, import_timeout: float = 300.0, observer: Observer | None = None) -> None:
        self.preload = tuple(preload)
        self.import_timeout = import_timeout
        self.observer = observer
        self.long_turn: float | None = None
        """Seconds, see `Crew`."""
        self._lock = threading.Lock()
        self._killed = False
        self._held = False
        self._crew: Crew | None = None
        self._setup: tuple[HydraContext, TaskFunction, DictConfig] | None = None

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Take what `launch` needs; see Hydra's `Launcher`."""
        self._setup = (hydra_context, task_function, config)

    def warm(self) -> None:
        """Start the fork server; returns at once."""
        warm(self.preload)

    def deal(self, jobs: Sequence[JobConfig]) -> list[tuple[int, ...]]:
        """Which jobs share a process, by their indices: here none do."""
        return [(index,) for index in range(len(jobs))]

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run the jobs and wait until all processes have ended.

        Returns:
            One `JobReturn` a job, in order. A process that ends without a result gives failed ones with `WorkerDied`.

        Raises:
            LaunchError: the fork server could not be started, its imports failed or took longer than `import_timeout`.
            hydra.errors.ConfigCompositionException: an override that does not fit.

        """
        if self._setup is None:
            raise LaunchError("setup() of the launcher was not called")
        context, task, config = self._setup
        setup_globals()
        Path(str(config.hydra.sweep.dir)).mkdir(parents=True, exist_ok=True)
        jobs = compose_jobs(context, config, job_overrides, initial_job_idx)
        hands = self.deal(jobs)
        payload = write_payload(Work.of(context, task, config, jobs, hands, long_turn=self.long_turn))
        try:
            with self._lock:
                crew = self._crew = Crew(
                    jobs,
                    hands,
                    payload,
                    preload=self.preload,
                    import_timeout=self.import_timeout,
                    observer=self.observer,
                    held=self._held,
                    long_turn=self.long_turn,
                )
                if self._killed:
                    crew.kill()
            return crew.run()
        finally:
            with self._lock:
                if self._crew is not None:
                    self._crew.close()
                self._crew = None
            os.close(payload)

    def kill(self) -> None:
        """Kill every worker with SIGKILL and let `launch` return; a `launch` after it starts nothing. Safe from any thread."""
        with self._lock:
            self._killed = True
            if self._crew is not None:
                self._crew.kill()

    def shutdown(self) -> None:
        """Kill the workers and end the idle fork servers of this process: no process is left."""
        self.kill()
        SERVERS.stop()
