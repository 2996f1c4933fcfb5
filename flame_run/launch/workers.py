"""Launching the workers of one job from inside a Hydra application, which may itself be one run of a sweep."""

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from hydra._internal.callbacks import Callbacks
from hydra.core.config_loader import ConfigLoader
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, RunMode, TaskFunction

from flame_run.launch.reduce import ReducingConfigLoader

_OF_THE_PARENT = (
    "hydra.mode",
    "hydra.run",
    "hydra.sweep",  # and sweeper
    "hydra/sweeper",
    "hydra.launcher",
    "hydra/launcher",
    "hydra.callbacks",
    "hydra/callbacks",
    "hydra.output_subdir",
    "hydra.job.chdir",
    "hydra.job_logging",
    "hydra/job_logging",
    "hydra.hydra_logging",
    "hydra/hydra_logging",
    "hydra.verbose",
)
"""Overrides of Hydra that concern the run itself, not its workers."""


def launch_workers(
    launcher: Launcher,
    *,
    config_loader: ConfigLoader,
    config_name: str | None,
    overrides: Sequence[str],
    hydra_overrides: Sequence[str],
    sweep_dir: Path,
    names: Sequence[str],
    rendezvous: Path | None,
    task_function: TaskFunction,
    nodes: Collection[str],
) -> Sequence[JobReturn]:
    """Run `task_function` once per worker, each with `worker.name` and `worker.rendezvous` set, and wait for all.

    The configuration needs the node `worker: {name: null, rendezvous: null}`. Every worker's Hydra output folder is
    `sweep_dir/NAME`; Hydra writes nothing there and configures no logging in a worker. No callback of Hydra is called. May be
    called from any thread.

    Args:
        launcher: runs the jobs.
        config_loader: the application's, `GlobalHydra.instance().config_loader()`.
        config_name: `hydra.job.config_name` of the application.
        overrides: `hydra.overrides.task` of this run.
        hydra_overrides: `hydra.overrides.hydra` of this run; those that concern the run itself are left out.
        sweep_dir: folder of the workers' folders.
        names: the workers.
        rendezvous: value of `worker.rendezvous`.
        task_function: what a worker does.
        nodes: what it reads: names at the top of the configuration. A worker is given no others, see `ReducingConfigLoader`.

    Returns:
        One `JobReturn` a worker, in order.

    Raises:
        LaunchError: the launcher itself failed.
        hydra.errors.ConfigCompositionException: overrides that do not fit.

    """
    ours = [
        "hydra/hydra_logging=none",
        "hydra/job_logging=none",
        "hydra.output_subdir=null",
        "hydra.job.chdir=false",
        f"hydra.sweep.dir={quote(str(sweep_dir.absolute()))}",
        "hydra.sweep.subdir=${worker.name}",
    ]
    composed = [*of_the_workers(hydra_overrides), *ours, *overrides]
    master = config_loader.load_configuration(config_name, composed, RunMode.MULTIRUN)
    reducing = ReducingConfigLoader(config_loader.get_search_path(), nodes)
    context = HydraContext(config_loader=reducing, callbacks=Callbacks())
    with _kept_hydra_config():
        launcher.setup(hydra_context=context, task_function=task_function, config=master)
        return launcher.launch([[*overrides, *worker_overrides(name, rendezvous)] for name in names], 0)


def worker_overrides(name: str, rendezvous: Path | None) -> list[str]:
    """Write the overrides that make a configuration the one of a worker."""
    path = "null" if rendezvous is None else quote(str(rendezvous))
    return [f"worker.rendezvous={path}", f"worker.name={quote(name)}"]


def of_the_workers(hydra_overrides: Sequence[str]) -> list[str]:
    """Leave out the overrides of Hydra that concern the run itself."""
    parsed = OverridesParser.create().parse_overrides(list(hydra_overrides))
    return [
        line for line, override in zip(hydra_overrides, parsed, strict=True) if not override.key_or_group.startswith(_OF_THE_PARENT)
    ]


def quote(text: str) -> str:
    """Write a text as a quoted value of Hydra's override grammar that stands for exactly this text."""
    if not text.isprintable():
        raise ValueError(f"cannot be written as an override: {text!r}")
    return QuotedString(text=text.replace("${", "\\${"), quote=Quote.single).with_quotes()


@contextmanager
def _kept_hydra_config() -> Iterator[None]:
    """Put back what `HydraConfig.get()` answers: launchers that run a job in this process replace it."""
    before = HydraConfig.instance().cfg
    try:
        yield
    finally:
        HydraConfig.instance().cfg = before
