"""From the config group `launcher` to a launcher that runs all workers of a job at the same time, or a refusal."""

from collections.abc import Callable
from typing import Protocol, cast, runtime_checkable

from hydra.plugins.launcher import Launcher
from hydra.utils import instantiate
from omegaconf import DictConfig, open_dict, read_write

from flame_run.errors import InvalidConfig, Problem
from flame_run.launch.plugins import PluginLauncher

_BASIC = "BasicLauncher"
_SLURM_DEFAULT = 256
"""`array_parallelism` of the plugin where nobody sets it."""


@runtime_checkable
class WorkerLauncher(Protocol):
    """What the runner asks of a launcher beyond Hydra's `Launcher`."""

    def kill(self) -> None:
        """Kill every worker and let `launch` return. Safe from any thread."""

    def shutdown(self) -> None:
        """Leave no process behind."""


@runtime_checkable
class RestartingLauncher(WorkerLauncher, Protocol):
    """A launcher that knows the process of each worker and can start one again; workers are named by their index."""

    def hold(self) -> None:
        """Let the next launch last until `release` or `kill`."""

    def release(self) -> None:
        """Let a held launch return once no worker is left."""

    def restart(self, index: int) -> None:
        """Start a worker that has ended again. Safe from any thread."""

    def kill_one(self, index: int) -> None:
        """Kill one worker. Safe from any thread."""


def prepare(launcher: DictConfig, workers: int) -> DictConfig:
    """Size a launcher's options for `workers` processes at once.

    Args:
        launcher: the config node `launcher`, with `_target_`.
        workers: how many workers the job has.

    Returns:
        A copy with the options that follow from the number of workers. A choice of the user's that is large enough stands.

    Raises:
        InvalidConfig: the launcher would run fewer of them at the same time, so that they would wait for each other for ever.

    """
    options = launcher.copy()
    size = _SIZERS.get(str(options.get("_target_")).rpartition(".")[2])
    if size is not None:
        with read_write(options), open_dict(options):
            problems = size(options, workers)
        if problems:
            raise InvalidConfig(problems)
    return options


def make_launcher(launcher: DictConfig, workers: int) -> Launcher:
    """Make the launcher that the config node `launcher` describes; the result is a `WorkerLauncher` too.

    Raises:
        InvalidConfig: see `prepare`.

    """
    options = prepare(launcher, workers)
    if str(options.get("_target_")).startswith("flame_run."):
        return cast("Launcher", instantiate(options))
    return PluginLauncher(options)


def _too_few(key: str, value: object, workers: int, can: int, legal: str) -> Problem:
    reason = f"{workers} workers have to run at the same time, this runs {can} at once"
    return Problem(place=f"launcher.{key}", value=value, reason=reason, legal=legal)


def _size_basic(options: DictConfig, workers: int) -> list[Problem]:
    if workers == 1:
        return []
    return [_too_few("_target_", options["_target_"], workers, 1, "local, cohort, joblib, submitit_local or debug")]


def _size_joblib(options: DictConfig, workers: int) -> list[Problem]:
    problems = []
    chosen = options.get("n_jobs")
    if chosen is not None:
        can = _joblib_processes(int(chosen))
        if can < workers:
            problems.append(_too_few("n_jobs", chosen, workers, can, f"null, or at least {workers}"))
    for key, needed in (("pre_dispatch", "all"), ("batch_size", 1)):
        if options.get(key) not in (None, needed):
            reason = "all workers have to be started at once, each in a process of its own"
            problems.append(Problem(place=f"launcher.{key}", value=options[key], reason=reason, legal=f"null or {needed}"))
        options[key] = needed
    # With one process joblib runs the job in the runner itself and replaces its Hydra state.
    options.n_jobs = max(int(chosen) if chosen is not None and int(chosen) > 0 else workers, 2)
    return problems


def _joblib_processes(n_jobs: int) -> int:
    """Count the processes that joblib means: -1 is one per core, -2 one less, and so on."""
    if n_jobs >= 0:
        return n_jobs
    from joblib import cpu_count  # noqa: PLC0415 - only for those who use it

    return max(int(cpu_count()) + 1 + n_jobs, 1)


def _size_submitit_local(options: DictConfig, workers: int) -> list[Problem]:
    """Submitit starts all local jobs at once; what remains is that a job is one process."""
    problems = []
    for key in ("tasks_per_node", "nodes"):
        if options.get(key) not in (None, 1):
            reason = f"each of the {workers} workers is one process"
            problems.append(Problem(place=f"launcher.{key}", value=options[key], reason=reason, legal="null or 1"))
    if options.get("gpus_per_node", 0) is None:
        del options["gpus_per_node"]
    return problems


def _size_submitit_slurm(options: DictConfig, workers: int) -> list[Problem]:
    chosen = options.get("array_parallelism")
    if chosen is not None and int(chosen) < workers:
        return [_too_few("array_parallelism", chosen, workers, int(chosen), f"null, or at least {workers}")]
    options.array_parallelism = int(chosen) if chosen is not None else max(workers, _SLURM_DEFAULT)
    return []


_SIZERS: dict[str, Callable[[DictConfig, int], list[Problem]]] = {
    _BASIC: _size_basic,
    "JoblibLauncher": _size_joblib,
    "SlurmLauncher": _size_submitit_slurm,
    "LocalLauncher": lambda options, workers: (
        _size_submitit_local(options, workers) if "submitit" in str(options["_target_"]) else []
    ),
}
