"""What makes a process of a foreign launcher a worker like any other: its end, its signals, its environment, its errors."""

import os
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import psutil
from hydra.types import TaskFunction
from omegaconf import DictConfig

from flame_run.launch.errors import WorkerDied
from flame_run.launch.job import PROGRAM, exited, portable

_CHANGED_BY_LAUNCHERS = (
    "CUDA_VISIBLE_DEVICES",  # submitit_local empties it
    "OMP_NUM_THREADS",  # loky sets these to cores / n_jobs
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMBA_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "PYTHONPATH",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Runner:
    """A process that workers must not outlive."""

    host: str
    pid: int
    created: float
    """Seconds since the epoch, as `psutil` tells it: a later process with the same id is another one."""

    @classmethod
    def this(cls) -> Self:
        """Name the calling process."""
        process = psutil.Process()
        return cls(host=socket.gethostname(), pid=process.pid, created=process.create_time())

    @property
    def near(self) -> bool:
        """Whether the caller runs on the same machine."""
        return self.host == socket.gethostname()

    def die_with(self) -> None:
        """Kill the calling process with SIGKILL when this runner ends; returns at once."""
        threading.Thread(target=self._await_end, name="runner-watch", daemon=True).start()

    def _await_end(self) -> None:
        try:
            process = psutil.Process(self.pid)
            if process.create_time() == self.created:
                process.wait()
        except psutil.NoSuchProcess:
            pass
        os.kill(os.getpid(), signal.SIGKILL)


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardedTask:
    """A task function for foreign launchers, to be pickled.

    Before it runs `task` it takes over the runner's import path and environment where the launcher bent them, leaves the
    terminal's process group (Ctrl-C is the runner's to handle), gives signals their default meaning, and ties itself to the
    runner's life. What it returns or raises can always be pickled.
    """

    task: TaskFunction
    runner: Runner
    path: tuple[str, ...]
    environment: Mapping[str, str]
    flag: Path
    """A file that is there as long as the launch has not been called off."""

    @classmethod
    def around(cls, task: TaskFunction, flag: Path) -> Self:
        """Guard `task` with the state of this process."""
        environment = {name: os.environ[name] for name in _CHANGED_BY_LAUNCHERS if name in os.environ}
        return cls(task=task, runner=Runner.this(), path=tuple(sys.path), environment=environment, flag=flag)

    def __call__(self, config: DictConfig) -> Any:
        """Run the task.

        Raises:
            WorkerDied: the task called `sys.exit`, or the launch was called off before this worker began.
            ResultLost: the task's result or exception cannot be pickled.

        """
        if self.runner.near and os.getpid() != self.runner.pid:
            self.runner.die_with()
            if not self.flag.exists():
                raise WorkerDied("the launch was called off before this worker began")
            self._adopt()
        try:
            result = self.task(config)
        except SystemExit as stop:
            raise exited(stop) from stop
        except Exception as error:
            error.add_note(f"Raised in worker process {os.getpid()}:\n{traceback.format_exc()}")
            lost = portable(error)
            if lost is not None:
                raise lost from error
            raise
        lost = portable(result)
        if lost is not None:
            raise lost
        return result

    def _adopt(self) -> None:
        for name in _CHANGED_BY_LAUNCHERS:
            if name in self.environment:
                os.environ[name] = self.environment[name]
            else:
                os.environ.pop(name, None)
        sys.path[:] = self.path
        sys.argv[:] = [PROGRAM]
        if os.getpgrp() != os.getpid():
            os.setpgid(0, 0)
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGCONT):
                signal.signal(number, signal.SIG_DFL)
