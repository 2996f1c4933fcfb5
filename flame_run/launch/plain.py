"""A job without the extras of Hydra's `run_job`: what a worker process does, where every millisecond is there once per worker."""

import os
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, JobStatus, env_override
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from flame_run.launch.compose import JobConfig


def is_plain(context: HydraContext, config: DictConfig) -> bool:
    """Whether Hydra would save, log and call nothing, and change no folder, so that `run_plainly` does all of `run_job`."""
    hydra = config.hydra
    logging: Any = hydra.job_logging or {}
    silent = logging.get("root") is None and not hydra.verbose
    return silent and hydra.output_subdir is None and not hydra.job.chdir and not context.callbacks.callbacks


def run_plainly(task: TaskFunction, job: JobConfig) -> JobReturn:
    """Do what Hydra's `run_job` does for a plain job, which copies the configuration four times: 16 ms of a worker's start.

    The result holds no configurations: nobody has to carry those of a hundred workers.
    """
    own, config = job.build(), job.build()
    # As what the workers' output folders are called may ask `${hydra:...}`.
    HydraConfig.instance().cfg = own  # type: ignore[assignment] # as in `HydraConfig.set_config`
    output = Path(str(OmegaConf.select(own, "hydra.sweep.dir")), str(OmegaConf.select(own, "hydra.sweep.subdir"))).absolute()
    with read_write(own.hydra.runtime), open_dict(own.hydra.runtime):
        own.hydra.runtime.output_dir = str(output)
    OmegaConf.set_readonly(own.hydra, value=True)
    with read_write(config), open_dict(config):
        del config["hydra"]
    output.mkdir(parents=True, exist_ok=True)
    result = JobReturn(overrides=list(job.overrides), working_dir=os.getcwd(), task_name=own.hydra.job.name)  # noqa: PTH109 - a text
    with env_override(own.hydra.job.env_set):
        try:
            result.return_value = task(config)
            result.status = JobStatus.COMPLETED
        except Exception as error:  # noqa: BLE001 - whatever the task raises is its result
            result.return_value = error
            result.status = JobStatus.FAILED
    return result
