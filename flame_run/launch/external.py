"""`launcher=external`: the sites of a federation start their workers themselves (`flame-run join`); the runner waits.

The workers that `launcher.local` names, by role or by name, are started here as `launcher=local` would; the usual case is
an aggregator beside the runner and a trainer at each site.
"""

from collections.abc import Iterator, Sequence

from omegaconf import DictConfig, ListConfig

from flame_run.documents.spelling import legal_values
from flame_run.errors import Problem
from flame_run.launch.config import PRELOAD
from flame_run.launch.crew import Observer
from flame_run.launch.local import LocalLauncher
from flame_run.topology.plan import Plan


class ExternalLauncher(LocalLauncher):
    """Starts the workers of `local` and no others.

    Args:
        local: roles, or names of workers.
        preload: modules that the fork server imports before it forks.
        import_timeout: longest wait for them, seconds.
        observer: told of every start and end of a process, from the thread that runs `launch`.

    """

    def __init__(
        self,
        local: Sequence[str] = (),
        preload: Sequence[str] = PRELOAD,
        import_timeout: float = 300.0,
        observer: Observer | None = None,
    ) -> None:
        super().__init__(preload, import_timeout, observer)
        self.local = tuple(local)


def is_external(cfg: DictConfig) -> bool:
    """Whether sites start workers of this job."""
    return str(cfg.launcher.get("_target_", "")).endswith("ExternalLauncher")


def started_here(cfg: DictConfig, plan: Plan) -> tuple[str, ...]:
    """Names of the workers that the runner starts, in the order of the plan: all of them but with `launcher=external`."""
    if not is_external(cfg):
        return tuple(worker.name for worker in plan.workers)
    local = set(cfg.launcher.get("local") or ())
    return tuple(worker.name for worker in plan.workers if {worker.name, worker.role} & local)


def check_external(cfg: DictConfig, plan: Plan) -> Iterator[Problem]:
    """Everything that is wrong with where the workers of the job start."""
    yield from _local_problems(cfg, plan) if is_external(cfg) else ()
    here = set(started_here(cfg, plan))
    for worker in plan.workers:
        if worker.name in here and worker.dataset is not None and worker.dataset.at_site:
            reason = f"only a site knows where the data of {worker.name} lie, and the runner starts it here"
            legal = "another URL, or launcher=external and the worker left to its site"
            yield Problem(f"the dataset of {worker.name}", worker.dataset.url, reason, legal)
    if plan.evaluation is not None and plan.evaluation.at_site:
        reason = "only a site knows where these data lie"
        yield Problem("job.evaluate.dataset", plan.evaluation.name, reason, "a dataset that the root can reach, or null")


def _local_problems(cfg: DictConfig, plan: Plan) -> Iterator[Problem]:
    local = cfg.launcher.get("local")
    if not isinstance(local, ListConfig | type(None)):
        yield Problem("launcher.local", local, "not a list", "launcher.local=[aggregator]")
        return
    known = [*dict.fromkeys(worker.role for worker in plan.workers), *(worker.name for worker in plan.workers)]
    for at, each in enumerate(local or ()):
        if each not in known:
            yield Problem(f"launcher.local[{at}]", each, "neither a role nor a worker of this job", legal_values(each, known))
