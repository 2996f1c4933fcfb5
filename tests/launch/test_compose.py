from collections.abc import Iterator, Sequence
from pathlib import Path
from unittest.mock import Mock

import pytest
from hydra import initialize_config_dir
from hydra._internal.callbacks import Callbacks
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import HydraContext, RunMode
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import DictConfig, OmegaConf

from flame_run.launch.compose import compose_jobs, single_difference
from flame_run.launch.workers import of_the_workers, quote, worker_overrides

HERE = Path(__file__).parent


@pytest.fixture
def context(hydra_restore_singletons: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[HydraContext]:
    monkeypatch.setenv("FLAME_RUN_CONF", str(HERE.parents[1] / "conf"))
    with initialize_config_dir(config_dir=str(HERE / "app" / "conf"), version_base="1.3", job_name="app"):
        loader = Mock(wraps=GlobalHydra.instance().config_loader())
        yield HydraContext(config_loader=loader, callbacks=Callbacks())


@pytest.fixture
def master(context: HydraContext) -> DictConfig:
    return context.config_loader.load_configuration("config", [], RunMode.MULTIRUN)


def parsed(*jobs: Sequence[str]) -> list[list[object]]:
    return [list(OverridesParser.create().parse_overrides(list(job))) for job in jobs]


def test_workers_are_composed_once_and_equal_their_own_compositions(context: HydraContext, master: DictConfig) -> None:
    lists = [["rate=0.1", "hydra.job.name=x", *worker_overrides(f"w-{i}", Path("a, b = c")), "workers=9"] for i in range(5)]
    jobs = compose_jobs(context, master, lists, 3)
    assert context.config_loader.load_sweep_config.call_count == 1  # type: ignore[attr-defined]
    for number, (job, overrides) in enumerate(zip(jobs, lists, strict=True), 3):
        alone = context.config_loader.load_sweep_config(master, overrides)
        OmegaConf.update(alone, "hydra.job.id", f"x_{number}", force_add=True)
        OmegaConf.update(alone, "hydra.job.num", number, force_add=True)
        assert job.build() == alone
        assert job.label == f"w-{number - 3}"


@pytest.mark.parametrize(
    "jobs",
    [
        [["worker.name=a"]],
        [["rate=1"], ["rate=2"]],
        [["launcher=local"], ["launcher=debug"]],
        [["worker.name=a"], ["worker.name=b", "rate=1"]],
        [["worker.name=a", "rate=1"], ["worker.name=b", "rate=2"]],
        [["worker.name=a"], ["worker.rendezvous=a"]],
        [["+worker.more=a"], ["+worker.more=b"]],
        [["worker.name=a"], ["~worker.name"]],
        [["worker.name=[a]"], ["worker.name=[b]"]],
        [["hydra.job.name=a"], ["hydra.job.name=b"]],
        [["worker.name=a"], ["worker.name=a"]],
    ],
)
def test_other_differences_are_composed_one_by_one(jobs: list[list[str]]) -> None:
    assert single_difference(parsed(*jobs)) is None  # type: ignore[arg-type]


def test_the_jobs_of_a_shared_composition_do_not_share_values(context: HydraContext, master: DictConfig) -> None:
    first, second = compose_jobs(context, master, [["worker.name=a"], ["worker.name=b"]], 0)
    first.build().rate = 7
    assert second.build().rate == 0.5
    assert first.build().worker.name == "a"


@given(st.text(st.characters(exclude_categories=["C", "Z"], include_characters=" "), min_size=1).filter(str.isprintable))
def test_a_quoted_text_stands_for_itself(text: str) -> None:
    if "\\" in text and "${" in text:
        return  # OmegaConf has its own reading of backslashes before an interpolation
    override = OverridesParser.create().parse_override(f"a.b={quote(text)}")
    assert OmegaConf.create({"a": override.value()}).a == text


def test_a_line_break_in_a_path_is_refused() -> None:
    with pytest.raises(ValueError, match="cannot be written as an override"):
        quote("two\nlines")


def test_overrides_of_the_run_itself_do_not_reach_the_workers() -> None:
    kept = ["hydra.searchpath=[file://x]", "hydra.job.name=y", "hydra.job.env_set.A=b"]
    dropped = [
        "hydra.mode=MULTIRUN",
        "hydra.run.dir=z",
        "hydra.sweep.dir=z",
        "hydra/launcher=joblib",
        "hydra.launcher.n_jobs=2",
        "hydra.job.chdir=true",
    ]
    assert of_the_workers([*kept, *dropped]) == kept
