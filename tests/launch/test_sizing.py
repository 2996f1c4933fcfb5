from pathlib import Path

import pytest
from hydra.plugins.launcher import Launcher
from omegaconf import DictConfig, OmegaConf

from flame_run.errors import InvalidConfig
from flame_run.launch.cohort import CohortLauncher
from flame_run.launch.config import CohortConf, DebugConf, ExternalConf, LocalConf
from flame_run.launch.debug import DebugLauncher
from flame_run.launch.local import LocalLauncher
from flame_run.launch.plugins import PluginLauncher
from flame_run.launch.sizing import WorkerLauncher, make_launcher, prepare

GROUP = Path(__file__).parents[2] / "conf" / "launcher"
BASIC = {"_target_": "hydra._internal.core_plugins.basic_launcher.BasicLauncher"}
SLURM = {"_target_": "hydra_plugins.hydra_submitit_launcher.submitit_launcher.SlurmLauncher", "array_parallelism": None}


def choice(name: str, **changes: object) -> DictConfig:
    loaded = OmegaConf.load(GROUP / f"{name}.yaml")
    assert isinstance(loaded, DictConfig)
    merged = OmegaConf.merge(loaded, changes)
    assert isinstance(merged, DictConfig)
    return merged


@pytest.mark.parametrize("workers", [2, 7, 100])
def test_joblib_gets_a_process_for_every_worker(workers: int) -> None:
    options = prepare(choice("joblib"), workers)
    assert (options.n_jobs, options.pre_dispatch, options.batch_size) == (workers, "all", 1)


def test_joblib_never_runs_a_single_worker_in_the_runner() -> None:
    assert prepare(choice("joblib"), 1).n_jobs == 2
    assert prepare(choice("joblib", n_jobs=1), 1).n_jobs == 2


def test_a_large_enough_choice_stands() -> None:
    assert prepare(choice("joblib", n_jobs=9), 7).n_jobs == 9


@pytest.mark.parametrize("n_jobs", [1, 2, 6, -1])
def test_too_few_processes_are_refused_with_the_numbers(n_jobs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("joblib.cpu_count", lambda: 6)
    with pytest.raises(InvalidConfig) as caught:
        prepare(choice("joblib", n_jobs=n_jobs), 7)
    text = str(caught.value)
    assert (
        f"launcher.n_jobs = {n_jobs}: 7 workers have to run at the same time, this runs {6 if n_jobs == -1 else n_jobs} at once"
        in text
    )
    assert "at least 7" in text


def test_starting_only_some_of_the_workers_is_refused() -> None:
    with pytest.raises(InvalidConfig, match=r"launcher\.pre_dispatch = '2\*n_jobs'"):
        prepare(choice("joblib", pre_dispatch="2*n_jobs"), 3)


def test_the_basic_launcher_is_refused_for_more_than_one_worker() -> None:
    assert prepare(OmegaConf.create(BASIC), 1) == BASIC
    with pytest.raises(InvalidConfig, match="2 workers have to run at the same time, this runs 1 at once"):
        prepare(OmegaConf.create(BASIC), 2)


@pytest.mark.parametrize("key", ["nodes", "tasks_per_node"])
def test_submitit_local_runs_one_process_per_worker(key: str) -> None:
    assert "gpus_per_node" not in prepare(choice("submitit_local"), 7)
    with pytest.raises(InvalidConfig, match=f"launcher.{key} = 2"):
        prepare(choice("submitit_local", **{key: 2}), 7)


def test_slurm_runs_the_whole_array_at_once() -> None:
    assert prepare(OmegaConf.create(SLURM), 300).array_parallelism == 300
    with pytest.raises(InvalidConfig, match=r"launcher\.array_parallelism = 6: 7 workers"):
        prepare(OmegaConf.create({**SLURM, "array_parallelism": 6}), 7)


def test_prepare_leaves_the_configuration_alone() -> None:
    given = choice("joblib")
    OmegaConf.set_readonly(given, value=True)
    OmegaConf.set_struct(given, value=True)
    prepare(given, 7)
    assert given == choice("joblib")


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("local", LocalLauncher),
        ("cohort", CohortLauncher),
        ("debug", DebugLauncher),
        ("joblib", PluginLauncher),
        ("submitit_local", PluginLauncher),
    ],
)
def test_every_choice_of_the_group_makes_a_launcher(name: str, kind: type[Launcher]) -> None:
    launcher = make_launcher(choice(name), 3)
    assert type(launcher) is kind
    assert isinstance(launcher, WorkerLauncher)


@pytest.mark.parametrize(
    ("name", "conf"), [("local", LocalConf), ("cohort", CohortConf), ("debug", DebugConf), ("external", ExternalConf)]
)
def test_the_files_of_our_own_launchers_say_the_defaults(name: str, conf: type) -> None:
    assert choice(name) == OmegaConf.structured(conf)
