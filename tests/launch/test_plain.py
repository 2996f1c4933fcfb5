import os
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from hydra import initialize_config_dir
from hydra._internal.callbacks import Callbacks
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, JobStatus, run_job, setup_globals
from hydra.types import HydraContext, RunMode
from omegaconf import DictConfig, open_dict

from flame_run.launch.compose import compose_jobs
from flame_run.launch.plain import is_plain, run_plainly
from flame_run.launch.workers import worker_overrides

HERE = Path(__file__).parent
BARE = ["hydra/hydra_logging=none", "hydra/job_logging=none", "hydra.output_subdir=null", "hydra.job.chdir=false"]


@pytest.fixture
def context(hydra_restore_singletons: None, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("FLAME_RUN_CONF", str(HERE.parents[1] / "conf"))
    with initialize_config_dir(config_dir=str(HERE / "app" / "conf"), version_base="1.3", job_name="app"):
        yield HydraContext(config_loader=GlobalHydra.instance().config_loader(), callbacks=Callbacks())


def composed(context: HydraContext, *overrides: str) -> DictConfig:
    return context.config_loader.load_configuration("config", [*BARE, *overrides], RunMode.MULTIRUN)


def seen(config: DictConfig) -> Any:
    own = HydraConfig.get()
    return config, own, own.runtime.output_dir, Path(own.runtime.output_dir).is_dir(), os.environ.get("PLACE")


def test_a_plain_job_sees_what_hydra_would_show_it(context: HydraContext, tmp_path: Path) -> None:
    extra = [f"hydra.sweep.dir={tmp_path}", "hydra.sweep.subdir='${worker.name}-${hydra:job.num}'", "+hydra.job.env_set.PLACE=here"]
    master = composed(context, *extra)
    setup_globals()
    lists = [worker_overrides(name, None) for name in ("a", "b")]
    for job in compose_jobs(context, master, lists, 4):
        ours = run_plainly(seen, job)
        whole: JobReturn = run_job(
            task_function=seen,
            config=job.build(),
            job_dir_key="hydra.sweep.dir",
            job_subdir_key="hydra.sweep.subdir",
            hydra_context=context,
        )
        assert ours.return_value == whole.return_value
        assert ours.return_value[2].endswith((f"a-{4}", f"b-{5}"))
        assert (ours.overrides, ours.working_dir, ours.status) == (lists[job.number - 4], whole.working_dir, JobStatus.COMPLETED)
    assert "PLACE" not in os.environ


def test_an_exception_is_the_result_of_a_plain_job(context: HydraContext, tmp_path: Path) -> None:
    setup_globals()
    master = composed(context, f"hydra.sweep.dir={tmp_path}")
    (job,) = compose_jobs(context, master, [worker_overrides("a", None)], 0)
    error = ValueError("no")
    result = run_plainly(Mock(side_effect=error), job)
    assert result.status is JobStatus.FAILED
    assert result._return_value is error


@pytest.mark.parametrize(
    "override", ["hydra.output_subdir=.hydra", "hydra.job.chdir=true", "hydra.verbose=true", "hydra/job_logging=default"]
)
def test_a_job_for_which_hydra_saves_logs_or_moves_is_not_plain(context: HydraContext, override: str) -> None:
    assert is_plain(context, composed(context))
    assert not is_plain(context, composed(context, override))


def test_a_job_with_a_callback_is_not_plain(context: HydraContext) -> None:
    context.callbacks.callbacks.append(Mock())
    config = composed(context)
    with open_dict(config):
        assert not is_plain(context, config)
