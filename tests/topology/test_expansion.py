"""Rules of the expansion that no shipped experiment shows."""

from collections.abc import Callable
from typing import Any

import pytest

from flame_run.topology.build import build_plan
from flame_run.topology.paths import depth, is_prefix, longest_prefix
from flame_run.topology.plan import Plan

H, TWO, G = ("hierarchical", "default"), ("two_tier", "default"), ("hierarchical_groups", "eu_na")


@pytest.fixture
def plan_after(documents_of: Callable[..., Any], edited: Callable[..., Any]) -> Callable[..., Plan]:
    def plan(base: tuple[str, str], edits: dict[str, Any]) -> Plan:
        documents = edited(documents_of(*base), edits)
        return build_plan(documents["schema"], documents["dataset"], documents["job"])

    return plan


PlanAfter = Callable[..., Plan]


@pytest.mark.parametrize(
    ("prefix", "path", "expected"),
    [
        ("default", "default", True),
        ("default/us", "default/us/west", True),
        ("default/u", "default/us", False),
        ("default/us/west", "default/us", False),
        ("us", "default/us", False),
    ],
)
def test_a_path_prefix_ends_at_a_slash(prefix: str, path: str, expected: bool):
    assert is_prefix(prefix, path) is expected


def test_the_longest_prefix_wins_and_none_is_none():
    assert longest_prefix("default/us/west", ["default", "default/us", "default/eu"]) == "default/us"
    assert longest_prefix("mars", ["default"]) is None
    assert depth(["default", "default/us/west"]) == 3


def test_a_count_makes_numbered_datasets_that_its_name_means_all(plan_after: PlanAfter):
    partition = {"strategy": "dirichlet", "alpha": 0.5, "count": 100}
    plan = plan_after(
        TWO, {"dataset.datasets[0].partition": partition, "dataset.dataSpec[0].datasets": ["mnist-germany", "mnist-us"]}
    )
    names = [worker.dataset.name for worker in plan.workers if worker.dataset]
    assert names == [*[f"mnist-germany-{index}" for index in range(100)], "mnist-us"]
    cut = plan.workers[42].dataset
    assert cut is not None
    assert cut.partition == {"strategy": "dirichlet", "alpha": 0.5, "index": 42, "of": 100}


def test_one_part_of_a_count_may_be_named_alone(plan_after: PlanAfter):
    edits = {
        "dataset.datasets[0].partition": {"strategy": "iid", "count": 3},
        "dataset.dataSpec[0].datasets": ["mnist-germany-2", "mnist-germany-0"],
    }
    plan = plan_after(TWO, edits)
    assert [worker.dataset.name for worker in plan.workers if worker.dataset] == ["mnist-germany-2", "mnist-germany-0"]


def test_a_channel_without_groups_takes_every_realm(plan_after: PlanAfter):
    plan = plan_after(TWO, {"schema.channels[0].groupBy": "DELETE", "dataset.datasets[0].realm": "mars/olympus"})
    assert {worker.groups["param-channel"] for worker in plan.workers} == {"default"}
    assert plan.worker("aggregator-0").realm == "default"


def test_a_consumer_joins_the_most_specific_label_of_its_realm(plan_after: PlanAfter):
    edits = {
        "schema.channels[0].groupBy.value": ["default/eu", "default/eu/uk", "default/na"],
        "schema.channels[1].groupBy.value": ["default", "default/na"],
        "schema.roles[2].replica": 1,
    }
    plan = plan_after(H, edits)
    assert [worker.groups["param-channel"] for worker in plan.workers[:4]] == [
        "default/eu",
        "default/eu/uk",
        "default/na",
        "default/na",
    ]
    above = {
        worker.groups["param-channel"]: worker.groups["global-channel"]
        for worker in plan.workers
        if worker.role == "middle-aggregator"
    }
    assert above == {"default/eu": "default", "default/eu/uk": "default", "default/na": "default/na"}
    assert plan.roots == ("top-aggregator-0", "top-aggregator-1")


def test_a_group_key_decides_on_its_channel_and_the_realm_on_the_others(plan_after: PlanAfter):
    edits = {
        "dataset.dataSpec[0]": {
            "role": "trainer",
            "datasetGroups": {"default/na": ["mnist-uk"], "default/eu": ["mnist-us", "mnist-germany"]},
        }
    }
    plan = plan_after(H, edits)
    assert [(worker.groups["param-channel"], worker.realm) for worker in plan.workers[:3]] == [
        ("default/na", "default/eu/uk"),
        ("default/eu", "default/na/us"),
        ("default/eu", "default/eu/germany"),
    ]


def test_replicas_stand_in_a_row_for_each_association(wrong: Callable[..., Any]):
    problems = wrong(G, {"schema.roles[1].replica": 2})
    assert [problem.reason.split(")")[0] for problem in problems] == [
        "2 workers (middle-aggregator-0, middle-aggregator-1",
        "2 workers (middle-aggregator-2, middle-aggregator-3",
    ]


def test_replicas_of_derived_roles_multiply_labels(wrong: Callable[..., Any]):
    problems = wrong(H, {"schema.roles[1].replica": 3})
    assert [problem.value for problem in problems] == ["default/eu", "default/na"]


def test_plain_datasets_take_the_association_whose_labels_lead_to_their_realm(plan_after: PlanAfter):
    edits = {
        "schema.channels[0].groupBy.value": ["default/eu", "default/na"],
        "schema.roles[0].groupAssociation": [{"param-channel": "default/eu"}, {"param-channel": "default/na"}],
        "schema.roles[1].groupAssociation": "DELETE",
        "dataset.dataSpec[0]": {"role": "trainer", "datasets": ["mnist-us", "mnist-uk"]},
    }
    plan = plan_after(G, edits)
    assert [worker.groups["param-channel"] for worker in plan.workers[:2]] == ["default/na", "default/eu"]


def test_plain_datasets_take_the_only_association_whatever_their_realm(plan_after: PlanAfter):
    edits = {
        "schema.roles[0].groupAssociation": [{"param-channel": "eu"}],
        "schema.roles[1].groupAssociation[1]": "DELETE",
        "dataset.dataSpec[0]": {"role": "trainer", "datasets": ["mnist-us", "mnist-uk"]},
    }
    plan = plan_after(G, edits)
    assert [worker.groups["param-channel"] for worker in plan.workers[:2]] == ["eu", "eu"]


def test_a_realm_that_fits_several_associations_is_told(wrong: Callable[..., Any]):
    edits = {
        "schema.channels[0].groupBy.value": ["default", "default/eu"],
        "schema.roles[0].groupAssociation": [{"param-channel": "default"}, {"param-channel": "default/eu"}],
        "schema.roles[1].groupAssociation": "DELETE",
        "dataset.dataSpec[0]": {"role": "trainer", "datasets": ["mnist-uk"]},
    }
    (problem,) = wrong(G, edits)
    assert problem.place == "dataset.datasets[1].realm (dataset mnist-uk)"
    assert "2 maps of groupAssociation" in problem.reason


def test_the_job_may_bring_its_own_id(plan_after: PlanAfter):
    assert plan_after(TWO, {"job.id": "629a403622f4715eabf99c5b"}).job_id == "629a403622f4715eabf99c5b"


def test_comments_change_no_id(plan_after: PlanAfter):
    commented = plan_after(TWO, {"schema.//": "a comment", "schema.roles[0].//": "another"})
    assert commented.job_id == plan_after(TWO, {}).job_id


def test_the_evaluation_uses_the_named_dataset_even_if_nobody_trains_on_it(plan_after: PlanAfter):
    held_out = {"name": "held-out", "url": "file://elsewhere", "realm": "default"}
    plan = plan_after(TWO, {"dataset.datasets[+]": held_out, "job.evaluate.dataset": "held-out"})
    assert plan.evaluation is not None
    assert plan.evaluation.url == "file://elsewhere"
    assert len(plan.workers) == 5


def test_the_evaluation_uses_the_first_dataset_of_the_plan_where_none_is_named(plan_after: PlanAfter):
    plan = plan_after(TWO, {"dataset.dataSpec[0].datasets": ["mnist-us", "mnist-uk"]})
    assert plan.evaluation == plan.workers[0].dataset


def test_code_may_be_attached_to_some_roles_and_the_others_get_the_built_in_classes(plan_after: PlanAfter):
    plan = plan_after(("coordinated", "three"), {"job.code": {"trainer": "roles.Trainer"}})
    assert plan.code == {
        "coordinator": "roles.Coordinator",
        "top-aggregator": "roles.Aggregator",
        "middle-aggregator": "roles.Aggregator",
        "trainer": "roles.Trainer",
    }
