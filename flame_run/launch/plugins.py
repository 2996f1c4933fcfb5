"""Hydra's existing launcher plugins as launchers of workers: sized so that all workers run at once, and ended for certain."""

import itertools
import os
import site
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from hydra.utils import instantiate
from omegaconf import DictConfig

from flame_run.launch.errors import LaunchError, WorkerDied
from flame_run.launch.guard import GuardedTask

_NUMBERS = itertools.count(1)


class PluginLauncher(Launcher):
    """A launcher plugin of Hydra behind the interface of our own: `launch`, `kill`, `shutdown`.

    Args:
        options: `_target_` of the plugin's class and its options, as `prepare` returns them.

    """

    def __init__(self, options: DictConfig) -> None:
        self._options = options
        self._name = str(options["_target_"]).rpartition(".")[2]
        self._over = threading.Condition()
        self._killed = False
        self._inner: Launcher | None = None
        self._setup: tuple[HydraContext, TaskFunction, DictConfig] | None = None
        self._flag = Path()

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Make the plugin's launcher and give it the guarded task; see Hydra's `Launcher`."""
        folder = Path(str(config.hydra.sweep.dir)).absolute()
        self._flag = folder / f".launch-{os.getpid()}-{next(_NUMBERS)}.tmp"
        options = self._options.copy()
        if "submitit_folder" in options and options.submitit_folder is None:
            options.submitit_folder = str(folder / ".submitit" / "%j")
        self._folder = str(options.get("submitit_folder") or "").partition("%j")[0]
        self._inner = instantiate(options)
        self._inner.setup(hydra_context=hydra_context, task_function=GuardedTask.around(task_function, self._flag), config=config)

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run the jobs and wait for all of them, or for `kill`; no process is left afterwards.

        Returns:
            One `JobReturn` a job, in order.

        Raises:
            LaunchError: the plugin gave up, for instance because one of its processes was killed.

        """
        outcomes: list[Sequence[JobReturn] | Exception] = []
        self._flag.parent.mkdir(parents=True, exist_ok=True)
        self._flag.touch()
        try:
            with _import_path_in_environment():
                # A thread of its own: some plugins cannot be made to return, and joblib will not start processes from a
                # thread that is itself a job of joblib.
                thread = threading.Thread(
                    target=self._launch, args=(job_overrides, initial_job_idx, outcomes), name=self._name, daemon=True
                )
                thread.start()
                with self._over:
                    # A job takes as long as it takes; `kill` is what ends this wait.
                    self._over.wait_for(lambda: self._killed or outcomes)
        finally:
            self._flag.unlink(missing_ok=True)
            self._end_processes()
        return self._conclude(outcomes, job_overrides)

    def kill(self) -> None:
        """Kill every worker with SIGKILL and let `launch` return; workers that start later end at once. From any thread."""
        with self._over:
            self._killed = True
            self._flag.unlink(missing_ok=True)
            self._over.notify_all()
        self._end_processes()

    def shutdown(self) -> None:
        """Leave no process behind."""
        self.kill()

    def _launch(self, lists: Sequence[Sequence[str]], first: int, outcomes: list[Sequence[JobReturn] | Exception]) -> None:
        result: Sequence[JobReturn] | Exception
        try:
            if self._inner is None:
                raise LaunchError("setup() of the launcher was not called")  # noqa: TRY301 - goes the way of the plugin's errors
            result = self._inner.launch(lists, first)
        except Exception as error:  # noqa: BLE001 - handed to the thread in launch(), which raises it
            result = error
        with self._over:
            outcomes.append(result)
            called_off = self._killed
            self._over.notify_all()
        if called_off:
            # What the plugin started after kill() looked.
            self._end_processes()

    def _conclude(self, outcomes: list[Sequence[JobReturn] | Exception], lists: Sequence[Sequence[str]]) -> Sequence[JobReturn]:
        result = outcomes[0] if outcomes else None
        if self._killed and not isinstance(result, Sequence):
            error = WorkerDied("the launcher was told to kill all workers")
            return [JobReturn(overrides=list(each), status=JobStatus.FAILED, _return_value=error) for each in lists]
        if isinstance(result, Exception):
            raise LaunchError(f"{self._name} gave up: {type(result).__name__}: {result}") from result
        return result or []

    def _end_processes(self) -> None:
        if self._name == "JoblibLauncher":
            _end_loky()
        elif self._folder:
            _end_submitit(self._folder)


def _end_loky() -> None:
    """End joblib's processes: it would reuse them, with the state the workers left, for whatever comes next."""
    from joblib.externals.loky import get_reusable_executor  # noqa: PLC0415 - only for those who use it

    get_reusable_executor(kill_workers=True).shutdown(wait=True, kill_workers=True)


def _end_submitit(folder: str) -> None:
    """Kill the processes that work in `folder`, with all their children, and remove the pickles there."""
    doomed: set[psutil.Process] = set()
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            if any(argument.startswith(folder) for argument in process.cmdline()):
                doomed |= {process, *process.children(recursive=True)}
    for process in doomed:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    _, left = psutil.wait_procs(list(doomed), timeout=10)
    left = [process for process in left if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]
    if left:
        raise LaunchError(f"processes are still there 10 s after SIGKILL: {left}")
    for pickled in Path(folder).glob("*/*.pkl"):
        pickled.unlink(missing_ok=True)
    with suppress(OSError):
        # Made by submitit for a name that it replaces afterwards.
        (Path(folder) / "%j").rmdir()


@contextmanager
def _import_path_in_environment() -> Iterator[None]:
    """Let processes that are started afresh import what this one can: the guard around the task, and a user's modules."""
    own = [os.path.abspath(entry) for entry in sys.path]  # noqa: PTH100 - of a text, an empty one too
    standard = tuple({sys.prefix, sys.base_prefix, *site.getsitepackages()})
    extra = [entry for entry in own if not entry.startswith(standard)]
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(extra)
    try:
        yield
    finally:
        if before is None:
            os.environ.pop("PYTHONPATH", None)
        else:
            os.environ["PYTHONPATH"] = before
