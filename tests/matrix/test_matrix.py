"""Every shipped algorithm with every shipped topology: a round that ends well, or one problem that says why not."""

import math
from itertools import product
from pathlib import Path

import pytest

from flame_run.config.folder import conf_dir
from flame_run.errors import InvalidConfig
from tests.matrix.harness import composed, run

ALGORITHMS = sorted(path.stem for path in (conf_dir() / "algorithm").glob("*.yaml"))
NOT_TOPOLOGIES = {"null_round"}
"""Experiments whose trainers do not train."""
EXPERIMENTS = sorted(path.stem for path in (conf_dir() / "experiment").glob("*.yaml") if path.stem not in NOT_TOPOLOGIES)
SMALL = (
    "job.hyperparameters.rounds=1",
    "model.module._target_=tests.matrix.models.Normed",
    "+model.trainer.limit_train_batches=2",
    "+model.trainer.limit_test_batches=1",
    "checkpoint.every=0",
)
OF_ALGORITHM = {
    "fedbuff": ["++job.hyperparameters.aggGoal=1", "++job.hyperparameters.middleAggGoal=1"],
    "fedgft": ["algorithm.sensitive_item=2", "+model.module.classes=2", "model.data._target_=tests.matrix.models.OddOrEven"],
}
"""What an algorithm needs to be told."""
NEEDS_EACH_TRAINER = {"fedasync", "oort", "fedbalancer"}
"""Works on what single trainers send to the root."""
COORDINATED = {"mnist_coordinated", "coordinated_three_level", "coordinated_async"}
MIDDLES = {"mnist_hierarchical", "mnist_four_tier", "realms_three_tier", "async_hierarchical"} | COORDINATED
RING_WITHOUT_SERVER, RING_WITH_SERVER = {"distributed"}, {"hybrid"}
PLAIN_UPDATES = {"fedavg", "fedprox", "fedavgm", "fedadam", "fedyogi", "fedadagrad"}
REFUSED = {
    *product(MIDDLES, NEEDS_EACH_TRAINER),
    *product(COORDINATED, {"fedgft"}),  # asks twice in a round, a coordinator maps trainers once
    ("coordinated_three_level", "fedbuff"),  # a coordinator lends trainers to one level of aggregators
    *product(RING_WITHOUT_SERVER, set(ALGORITHMS) - {"fedavg", "fedprox"}),
    *product(RING_WITH_SERVER, set(ALGORITHMS) - PLAIN_UPDATES),
}
"""Experiment, algorithm: what cannot work."""


def overrides(experiment: str, algorithm: str) -> list[str]:
    return [f"experiment={experiment}", f"algorithm={algorithm}", *SMALL, *OF_ALGORITHM.get(algorithm, ())]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_a_round_ends_well_or_is_refused_for_a_reason(experiment: str, algorithm: str, tmp_path: Path) -> None:
    cfg = composed(*overrides(experiment, algorithm))
    if (experiment, algorithm) in REFUSED:
        with pytest.raises(InvalidConfig) as caught:
            run(cfg, tmp_path)
        assert all(problem.reason for problem in caught.value.problems)
        return
    records = run(cfg, tmp_path)
    assert {name: record.error for name, record in records.items()} == dict.fromkeys(records)
    results = [result for record in records.values() for result in record.results]
    assert results
    assert all(result["rounds"] == 1 and math.isfinite(result["metrics"]["loss"]) for result in results)
