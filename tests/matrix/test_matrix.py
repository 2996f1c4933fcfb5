"""What ships, combined: every job runs one round that ends well, or is refused for the true cause and no other."""

import math
from pathlib import Path

import pytest
from omegaconf import DictConfig

from flame_run.config.folder import options
from flame_run.errors import InvalidConfig
from tests.matrix.causes import COORDINATED, MIDDLES, RINGS, ROLES_THAT_SHARE_PARTS, causes, unexplained
from tests.matrix.harness import Record, composed, run

NOT_TOPOLOGIES = {"null_round"}
"""Experiments whose trainers do not train."""
EXPERIMENTS = [name for name in options("experiment") if name not in NOT_TOPOLOGIES]
SMALL = (
    "job.hyperparameters.rounds=1",
    "+model.trainer.limit_train_batches=2",
    "+model.trainer.limit_test_batches=1",
    "checkpoint.every=0",
)
MODEL = "model.module._target_=tests.matrix.models.Normed"
OF_ALGORITHM = {
    "fedbuff": ["++job.hyperparameters.aggGoal=1", "++job.hyperparameters.middleAggGoal=1"],
    "fedgft": ["algorithm.sensitive_item=2", "+model.module.classes=2", "model.data._target_=tests.matrix.models.OddOrEven"],
}
"""What an algorithm needs to be told."""
AWAY = ("trainer-0", "image-trainer-0")
OF_SELECTOR = {
    "random": ["selector.k=1"],
    "power_of_choice": ["selector.m=1", "selector.d=2"],
    "trace": [f"selector.intervals={{{', '.join(f'{name}: [[2, null]]' for name in AWAY)}}}"],
}
"""Selectors that no preset of `algorithm` chooses -> what they are told, so that somebody sits the round out."""
PRIVATE = ["mnist_two_tier", "mnist_hierarchical", "coordinated_async"]
"""One topology each without middle aggregators, with them, and with a coordinator: the others differ in nothing that matters."""


def small(experiment: str, *more: str) -> DictConfig:
    """A job of one round; roles with models of their own keep these."""
    model = [] if experiment in ROLES_THAT_SHARE_PARTS else [MODEL]
    return composed(f"experiment={experiment}", *SMALL, *model, *more)


def with_algorithm(name: str) -> list[str]:
    return [f"algorithm={name}", *OF_ALGORITHM.get(name, ())]


def check(experiment: str, cfg: DictConfig, folder: Path) -> dict[str, Record]:
    """Worker -> what it reported in a round that ended well; nothing for a job that was rightly refused."""
    expected = causes(experiment, cfg)
    if expected:
        with pytest.raises(InvalidConfig) as caught:
            run(cfg, folder)
        assert not unexplained(caught.value.problems, expected)
        return {}
    records = run(cfg, folder)
    assert {name: record.error for name, record in records.items()} == dict.fromkeys(records)
    results = [result for record in records.values() for result in record.results]
    assert results
    assert all(result["rounds"] == 1 and math.isfinite(result["metrics"]["loss"]) for result in results)
    return records


@pytest.mark.parametrize("algorithm", options("algorithm"))
@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_an_algorithm_serves_a_topology_or_is_refused_for_its_true_cause(experiment: str, algorithm: str, tmp_path: Path) -> None:
    check(experiment, small(experiment, *with_algorithm(algorithm)), tmp_path)


@pytest.mark.parametrize("selector", OF_SELECTOR)
@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_a_selector_leaves_somebody_out_or_is_refused_for_its_true_cause(experiment: str, selector: str, tmp_path: Path) -> None:
    cfg = small(experiment, f"selector={selector}", *OF_SELECTOR[selector])
    records = check(experiment, cfg, tmp_path)
    idle = {name for name, record in records.items() if "trainer" in name and not record.rounds}
    if selector == "trace":
        assert idle == records.keys() & set(AWAY)
    assert bool(idle) == bool(records)


@pytest.mark.parametrize("algorithm", options("algorithm"))
@pytest.mark.parametrize("experiment", PRIVATE)
def test_an_algorithm_is_private_or_is_refused_for_its_true_cause(experiment: str, algorithm: str, tmp_path: Path) -> None:
    records = check(experiment, small(experiment, *with_algorithm(algorithm), "privacy=dp"), tmp_path)
    spent = [values["dp_epsilon"] for record in records.values() for _, values in record.metrics if "dp_epsilon" in values]
    assert len(spent) == bool(records)
    assert all(0 < epsilon < math.inf for epsilon in spent)


def test_every_selector_is_in_the_matrix() -> None:
    chosen = {"all", "oort"}  # what algorithms come with
    assert set(options("selector")) == OF_SELECTOR.keys() | chosen


def test_what_is_told_of_topologies_is_told_of_those_that_ship() -> None:
    assert set(EXPERIMENTS) >= MIDDLES | COORDINATED | RINGS | ROLES_THAT_SHARE_PARTS


def test_another_error_of_the_configuration_is_no_cause(tmp_path: Path) -> None:
    """What is wrong beside the cause is seen as such."""
    cfg = small("mnist_hierarchical", "algorithm=fedasync", "selector=random", "selector.k=0.5", "job.hyperparameters.batchSize=0")
    with pytest.raises(InvalidConfig) as caught:
        run(cfg, tmp_path)
    assert unexplained(caught.value.problems, causes("mnist_hierarchical", cfg))
