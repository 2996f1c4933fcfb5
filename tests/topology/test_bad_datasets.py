"""One wrong thing in a dataset spec or job each: it is told once, without echo."""

from collections.abc import Callable
from typing import Any

import pytest

TWO, H, G, C = ("two_tier", "default"), ("hierarchical", "default"), ("hierarchical_groups", "eu_na"), ("coordinated", "three")
Case = tuple[tuple[str, str], dict[str, Any], str, str, str]
CASES: dict[str, Case] = {
    "a dataset without a realm": (
        H,
        {"dataset.datasets[1].realm": "DELETE"},
        "dataset.datasets[1].realm (dataset mnist-uk)",
        "required",
        "",
    ),
    "an unknown key of a dataset": (
        H,
        {"dataset.datasets[1].relm": "x"},
        "dataset.datasets[1].relm (dataset mnist-uk)",
        "unknown key",
        "did you mean 'realm'?",
    ),
    "a map instead of a list of datasets": (
        H,
        {"dataset.datasets": {"mnist-uk": {}}},
        "dataset.datasets",
        "must be a list, not a map",
        "",
    ),
    "a dataset name that is taken": (
        H,
        {"dataset.datasets[1].name": "mnist-us", "dataset.dataSpec[0].datasets": ["mnist-germany", "mnist-canada", "mnist-us"]},
        "dataset.datasets[3].name (dataset mnist-us)",
        "dataset.datasets[1].name (dataset mnist-us) has it",
        "",
    ),
    "a dataset name that a count makes too": (
        H,
        {
            "dataset.datasets[+]": {
                "name": "mnist",
                "url": "builtin://mnist-mini",
                "realm": "default",
                "partition": {"strategy": "iid", "count": 3},
            },
            "dataset.datasets[3].name": "mnist-2",
            "dataset.dataSpec[0].datasets[3]": "mnist-2",
        },
        "dataset.datasets[4].name (dataset mnist)",
        "the name is taken",
        "",
    ),
    "an unknown dataset": (
        H,
        {"dataset.dataSpec[0].datasets[1]": "mnist-ukk"},
        "dataset.dataSpec[0].datasets[1] (role trainer)",
        "no such dataset",
        "did you mean 'mnist-uk'?",
    ),
    "a dataset used twice": (
        H,
        {"dataset.dataSpec[0].datasets[+]": "mnist-uk"},
        "dataset.dataSpec[0].datasets[4] (role trainer)",
        "used already, at dataset.dataSpec[0].datasets[1]",
        "",
    ),
    "a dataset used alone and among all": (
        TWO,
        {
            "dataset.datasets[0].partition": {"strategy": "iid", "count": 3},
            "dataset.dataSpec[0].datasets": ["mnist-germany", "mnist-germany-1"],
        },
        "dataset.dataSpec[0].datasets[1] (role trainer)",
        "'mnist-germany-1' is used already",
        "",
    ),
    "an empty list of datasets": (
        H,
        {"dataset.dataSpec[0].datasets": []},
        "dataset.dataSpec[0].datasets (role trainer)",
        "must not be empty",
        "",
    ),
    "an empty dataset group": (
        G,
        {"dataset.dataSpec[0].datasetGroups.eu": []},
        "dataset.dataSpec[0].datasetGroups.eu (role trainer)",
        "must not be empty",
        "",
    ),
    "a list where dataset groups are a map": (
        G,
        {"dataset.dataSpec[0].datasetGroups": ["mnist-uk"]},
        "dataset.dataSpec[0].datasetGroups (role trainer)",
        "must be a map, not a list",
        "",
    ),
    "a dataset group that is no label": (
        G,
        {"dataset.dataSpec[0].datasetGroups": {"eu": ["mnist-uk"], "nna": ["mnist-us"]}},
        "dataset.dataSpec[0].datasetGroups.nna (role trainer)",
        "no map of groupAssociation",
        "did you mean 'na'?",
    ),
    "a dataset group that several maps have": (
        G,
        {"schema.roles[0].groupAssociation[+]": {"param-channel": "eu"}},
        "dataset.dataSpec[0].datasetGroups.eu (role trainer)",
        "2 maps of groupAssociation",
        "eu",
    ),
    "a dataset group that no channel has": (
        H,
        {"dataset.dataSpec[0]": {"role": "trainer", "datasetGroups": {"default/eu": ["mnist-uk"], "default/sa": ["mnist-us"]}}},
        "dataset.dataSpec[0].datasetGroups.default/sa (role trainer)",
        "no channel of role trainer has this label",
        "legal: default/eu, default/na",
    ),
    "a realm that fits no label": (
        H,
        {"dataset.datasets[2].realm": "default/asia/japan"},
        "dataset.datasets[2].realm (dataset mnist-canada)",
        "no label of channel param-channel is a path prefix",
        "legal: default/eu, default/na",
    ),
    "a realm that only looks like a label": (
        H,
        {"dataset.datasets[2].realm": "default/nadir"},
        "dataset.datasets[2].realm (dataset mnist-canada)",
        "no label of channel param-channel is a path prefix",
        "did you mean 'default/na'?",
    ),
    "a realm of a hundred datasets that fits no label": (
        H,
        {"dataset.datasets[2].realm": "mars", "dataset.datasets[2].partition": {"strategy": "iid", "count": 100}},
        "dataset.datasets[2].realm (dataset mnist-canada)",
        "no label of channel param-channel is a path prefix",
        "legal: default/eu, default/na",
    ),
    "a realm that fits no association": (
        G,
        {"dataset.dataSpec[0]": {"role": "trainer", "datasets": ["mnist-uk"]}},
        "dataset.datasets[1].realm (dataset mnist-uk)",
        "no map of groupAssociation of role trainer",
        "{param-channel: eu}",
    ),
    "groups and datasets at once": (
        H,
        {"dataset.dataSpec[0].datasetGroups": {"default/eu": ["mnist-uk"]}},
        "dataset.dataSpec[0] (role trainer)",
        "either datasetGroups or datasets, and has datasetGroups and datasets",
        "",
    ),
    "neither groups nor datasets": (
        H,
        {"dataset.dataSpec[0].datasets": "DELETE"},
        "dataset.dataSpec[0] (role trainer)",
        "has neither",
        "",
    ),
    "datasets for an unknown role": (
        H,
        {"dataset.dataSpec[0].role": "trainr"},
        "dataset.dataSpec[0].role (role trainr)",
        "no such role",
        "did you mean 'trainer'?",
    ),
    "datasets for a role that trains not": (
        H,
        {
            "dataset.dataSpec[+]": {"role": "top-aggregator", "datasets": ["mnist-0"]},
            "dataset.datasets[+]": {"name": "mnist-0", "url": "builtin://mnist-mini", "realm": "default"},
        },
        "dataset.dataSpec[1].role (role top-aggregator)",
        "not a data consumer",
        "legal: trainer",
    ),
    "datasets for a role twice": (
        H,
        {
            "dataset.dataSpec[0].datasets": ["mnist-germany", "mnist-canada"],
            "dataset.dataSpec[+]": {"role": "trainer", "datasets": ["mnist-uk"]},
        },
        "dataset.dataSpec[1].role (role trainer)",
        "has its datasets already",
        "one entry for each role",
    ),
    "an index beyond the parts": (
        H,
        {"dataset.datasets[0].partition.index": 4},
        "dataset.datasets[0].partition.index (dataset mnist-germany)",
        "counts from 0",
        "0 to 3",
    ),
    "a count and an index": (
        H,
        {"dataset.datasets[0].partition.count": 2, "dataset.dataSpec[0].datasets": ["mnist-germany", "mnist-canada"]},
        "dataset.datasets[0].partition (dataset mnist-germany)",
        "either count or index and of, and has count and index and of",
        "",
    ),
    "an index without its whole": (
        H,
        {"dataset.datasets[0].partition.of": "DELETE"},
        "dataset.datasets[0].partition (dataset mnist-germany)",
        "either count or index and of, and has index",
        "",
    ),
    "a count beyond all bounds": (
        H,
        {"dataset.datasets[0].partition": {"strategy": "iid", "count": 10**12}},
        "dataset.datasets[0].partition.count (dataset mnist-germany)",
        "must be at most 1000000",
        "",
    ),
    "an unknown way to cut": (
        H,
        {"dataset.datasets[0].partition.strategy": "dirichelt"},
        "dataset.datasets[0].partition.strategy (dataset mnist-germany)",
        "not a legal value",
        "did you mean 'dirichlet'?",
    ),
    "a job without a name": (H, {"job.name": "DELETE"}, "job.name", "required", ""),
    "0 rounds": (H, {"job.hyperparameters.rounds": 0}, "job.hyperparameters.rounds", "must be at least 1", ""),
    "half a round": (
        H,
        {"job.roles": {"trainer": {"hyperparameters": {"epochs": 1.5}}}},
        "job.roles.trainer.hyperparameters.epochs",
        "must be a whole number, not a number",
        "",
    ),
    "a learning rate of 0": (
        H,
        {"job.hyperparameters.learningRate": 0},
        "job.hyperparameters.learningRate",
        "must be greater than 0",
        "",
    ),
    "a list of hyperparameters": (H, {"job.hyperparameters": ["rounds"]}, "job.hyperparameters", "must be a map, not a list", ""),
    "an unknown key of the job": (H, {"job.maxRuntime": 60}, "job.maxRuntime", "unknown key", "did you mean 'maxRunTime'?"),
    "a negative maxRunTime": (H, {"job.maxRunTime": -1}, "job.maxRunTime", "must be greater than 0", "Seconds"),
    "an unknown policy": (
        H,
        {"job.coordinate.policy": "roundrobin"},
        "job.coordinate.policy",
        "not a legal value",
        "did you mean 'round_robin'?",
    ),
    "an unknown dataset to evaluate on": (
        H,
        {"job.evaluate.dataset": "mnist-usa"},
        "job.evaluate.dataset",
        "no such dataset",
        "did you mean 'mnist-us'?",
    ),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_one_wrong_thing_is_told_once_with_place_reason_and_legal_values(told_once: Callable[..., None], case: Case):
    told_once(*case)
