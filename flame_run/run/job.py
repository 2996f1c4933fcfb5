"""One run, from the composed configuration to its end: the task function of `flame-run`."""

import json
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf, open_dict

from flame_run.errors import FlameRunError, Interrupted, InvalidConfig, JobFailed, JobTerminated, Problem
from flame_run.run.checks import plan_of
from flame_run.run.events import Finish
from flame_run.run.folder import RunFolder, write_atomically
from flame_run.run.runner import Runner
from flame_run.topology.plan import plan_to_json
from flame_run.topology.render import render_mermaid

log = logging.getLogger(__name__)


def run(cfg: DictConfig) -> float | None:
    """Validate, expand, launch, supervise, summarise.

    Returns:
        The value of the metric that the best model is chosen by, of the last model; what a sweeper can optimise.

    Raises:
        InvalidConfig: before anything was started or written.
        JobFailed, JobTerminated, Interrupted: how the job ended, if not well.
    """
    folder = RunFolder(HydraConfig.get().runtime.output_dir)
    try:
        linux_only()
        plan = plan_of(cfg)
        runner = Runner(cfg, plan, folder)
        folder.create()
    except InvalidConfig:
        with suppress(OSError):  # the folder that Hydra made stays if it holds anything
            folder.path.rmdir()
        raise
    return perform(runner, cfg)


def perform(runner: Runner, cfg: DictConfig) -> float | None:
    """Run a job whose folder is claimed to its end; `cfg` as it was composed; returns and raises as `run`."""
    folder = runner.folder
    with _logging_to(folder.path / "run.log"):
        folder.write_runner()  # from here on nobody else takes it for a run that is over
        _write_inputs(runner, cfg)
        finish, metric = runner.run()
        with suppress(OSError):  # a reader that has gone, a full disk: the run itself is over and stored
            print(folder.path, flush=True)  # noqa: T201 - the last line of a run, for scripts
    if finish.status != "completed":
        raise _error(finish, folder)
    return metric


def linux_only() -> None:
    """Refuse other systems.

    Raises:
        InvalidConfig: this is not Linux.
    """
    if sys.platform != "linux":
        raise InvalidConfig([Problem("this machine", sys.platform, "flame-run runs on Linux only")])


def _error(finish: Finish, folder: RunFolder) -> FlameRunError:
    kinds: dict[int, type[FlameRunError]] = {130: Interrupted}
    kind = JobTerminated if finish.status == "terminated" and finish.exit_status == 1 else kinds.get(finish.exit_status, JobFailed)
    logs = "".join(f"\n  its log: {folder.worker_log(worker)}" for worker in finish.culprits if folder.worker_log(worker).is_file())
    return kind((finish.error or f"the job is {finish.status}") + logs)


def _write_inputs(runner: Runner, cfg: DictConfig) -> None:
    """What the run is made from: the composed configuration as Hydra would store it, and the plan."""
    plan, folder, parts = runner.plan, runner.folder, runner.parts
    hydra = HydraConfig.get()
    folder.hydra.mkdir(exist_ok=True)
    own = cfg.copy()
    with open_dict(own):
        own.pop("hydra", None)
    # A crash between two of them leaves a run that goes on with the new overrides, and tells of their changes once more.
    write_atomically(folder.hydra / "overrides.yaml", OmegaConf.to_yaml(hydra.overrides.task))
    write_atomically(folder.hydra / "hydra.yaml", OmegaConf.to_yaml(OmegaConf.create({"hydra": hydra})))
    write_atomically(folder.plan, json.dumps(plan_to_json(plan), indent=2) + "\n")
    write_atomically(folder.config, OmegaConf.to_yaml(own))
    write_atomically(folder.path / "topology.mmd", render_mermaid(plan) + "\n")
    module = next((parts.configs[plan.worker(root).role]["model"]["module"] for root in plan.roots), None)
    if module is not None:
        content = {"module": module, "python_path": [os.path.abspath(path) for path in cfg.python_path]}  # noqa: PTH100 - plain text
        write_atomically(folder.checkpoints / "module.json", json.dumps(content, indent=2) + "\n")


@contextmanager
def _logging_to(path: Path) -> Iterator[None]:
    handler = logging.FileHandler(path, encoding="utf-8", delay=True)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.getLogger().addHandler(handler)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(handler)
        handler.close()
