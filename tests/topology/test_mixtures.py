"""Many wrong things at once: all are told, none twice, and what is broken hides nothing that is sound."""

from collections.abc import Callable
from typing import Any

import pytest

from flame_run.errors import InvalidConfig, Problem
from flame_run.topology.build import build_plan, plan_or_problems

H, G, C = ("hierarchical", "default"), ("hierarchical_groups", "eu_na"), ("coordinated", "three")
Wrong = Callable[..., list[Problem]]


def places(problems: list[Problem]) -> list[str]:
    return [problem.place.split(" (")[0] for problem in problems]


def test_wrong_things_in_all_three_documents_are_told_together(wrong: Wrong):
    edits = {
        "schema.channels[0].funcTags.trainer[1]": "uplod",
        "schema.roles[2].replica": "2",
        "dataset.datasets[1].url": "DELETE",
        "dataset.dataSpec[0].datasets[0]": "mnist-germny",
        "job.hyperparameters.rounds": 0,
        "job.code": {"aggregator": "roles.Aggregator"},
    }
    assert sorted(places(wrong(H, edits))) == [
        "dataset.dataSpec[0].datasets[0]",
        "dataset.datasets[1].url",
        "job.code.aggregator",
        "job.hyperparameters.rounds",
        "schema.channels[0].funcTags.trainer[1]",
        "schema.roles[2].replica",
    ]


def test_a_broken_channel_hides_no_problem_of_the_others(wrong: Wrong):
    edits = {"schema.channels[0].pair": "trainer", "schema.channels[1].funcTags.top-aggregator[0]": "distribut"}
    assert places(wrong(H, edits)) == ["schema.channels[0].pair", "schema.channels[1].funcTags.top-aggregator[0]"]


def test_a_broken_role_hides_no_misspelt_function(wrong: Wrong):
    edits = {"schema.roles[1].name": 7, "schema.channels[0].funcTags.trainer[0]": "fech"}
    assert places(wrong(H, edits)) == ["schema.roles[1].name", "schema.channels[0].funcTags.trainer[0]"]


def test_several_realms_that_fit_no_label_are_each_told(wrong: Wrong):
    edits = {"dataset.datasets[0].realm": "default/asia", "dataset.datasets[3].realm": "default/africa"}
    assert places(wrong(H, edits)) == ["dataset.datasets[0].realm", "dataset.datasets[3].realm"]


def test_two_data_consumers_that_are_paired_are_told(wrong: Wrong):
    problems = wrong(H, {"schema.roles[1].isDataConsumer": True})
    assert any(problem.place == "schema.channels[0].pair (channel param-channel)" for problem in problems)
    assert any(
        problem.place == "schema.roles[1] (role middle-aggregator)" and "no datasets" in problem.reason for problem in problems
    )


def test_no_data_consumer_is_told_beside_datasets_that_nobody_can_take(wrong: Wrong):
    problems = wrong(H, {"schema.roles[0].isDataConsumer": False, "job.code": {"trainer": "roles.Trainer"}})
    assert places(problems)[:2] == ["schema.roles", "dataset.dataSpec[0].role"]


def test_a_chain_of_fetches_that_closes_is_told():
    names = ["a", "b", "c"]
    pairs = list(zip(names, [*names[1:], "a"], strict=True))
    channels = [
        {"name": f"{low}-{high}", "pair": [low, high], "funcTags": {low: ["fetch", "upload"], high: ["distribute", "aggregate"]}}
        for low, high in pairs
    ]
    roles = [{"name": "a", "isDataConsumer": True}, {"name": "b"}, {"name": "c"}]
    schema = {"name": "circle", "roles": roles, "channels": channels}
    dataset = {
        "datasets": [{"name": "d", "url": "builtin://mnist-mini", "realm": "default"}],
        "dataSpec": [{"role": "a", "datasets": ["d"]}],
    }
    _, problems = plan_or_problems(schema, dataset, {"name": "job", "code": {"a": "roles.Aggregator"}})
    assert [(problem.place, problem.value) for problem in problems] == [("schema.channels", "a -> b -> c -> a")]


def test_deeper_groups_two_channels_further_up_are_told(wrong: Wrong):
    edits = {
        "schema.channels[0].groupBy.value": ["default/eu", "default/na/east"],
        "schema.channels[1].groupBy.value": ["world"],
        "schema.channels[2].groupBy.value": ["default/eu/west"],
    }
    problems = wrong(("four_tier", "regions"), edits)
    deeper = [problem for problem in problems if "more specific upwards" in problem.reason]
    assert [problem.value for problem in deeper] == ["default/eu/west"]
    assert "region-channel" in deeper[0].reason


def test_unrelated_labels_are_not_compared(wrong: Wrong):
    associations = {
        "schema.channels[1].groupBy.value": ["a/very/deep/label"],
        "schema.roles[1].groupAssociation[0].global-channel": "a/very/deep/label",
        "schema.roles[1].groupAssociation[1].global-channel": "a/very/deep/label",
        "schema.roles[2].groupAssociation[0].global-channel": "a/very/deep/label",
    }
    assert wrong(G, associations) == []


def test_two_coordinators_in_one_group_are_told(wrong: Wrong):
    problems = wrong(C, {"schema.roles[0].replica": 2})
    assert {problem.place for problem in problems} == {
        "schema.channels[0].groupBy.value[0] (channel top-agg-coord-channel)",
        "schema.channels[1].groupBy.value[0] (channel middle-agg-coord-channel)",
        "schema.channels[2].groupBy.value[0] (channel trainer-coord-channel)",
    }


def test_a_coordinator_whose_partners_are_swapped_is_told(wrong: Wrong):
    swapped = {
        "schema.channels[0].funcTags.coordinator": ["coordinateWithTrainer"],
        "schema.channels[2].funcTags.coordinator": ["coordinateWithTopAgg"],
    }
    problems = wrong(C, swapped)
    assert places(problems) == ["schema.channels[0].funcTags.coordinator[0]", "schema.channels[2].funcTags.coordinator[0]"]
    assert "did you mean" in problems[0].legal


def test_an_uncoordinated_trainer_among_two_middle_aggregators_is_told(wrong: Wrong):
    without = {
        "schema.channels[2]": "DELETE",
        "schema.roles[0].groupAssociation[0].trainer-coord-channel": "DELETE",
        "schema.roles[3].groupAssociation[0].trainer-coord-channel": "DELETE",
    }
    reasons = [problem.reason for problem in wrong(C, without)]
    assert any("no coordinator says which one" in reason for reason in reasons)


@pytest.mark.parametrize("nothing", [None, [], "text", 3, {}])
@pytest.mark.parametrize("kind", ["schema", "dataset", "job"])
def test_a_document_that_is_something_else_is_told_without_a_crash(documents_of: Callable[..., Any], kind: str, nothing: Any):
    documents = documents_of(*H) | {kind: nothing}
    plan, problems = plan_or_problems(documents["schema"], documents["dataset"], documents["job"])
    assert plan is None
    # None stands for a document that could not be loaded, which has been told
    assert all(problem.place.startswith(kind) for problem in problems)
    assert bool(problems) == (nothing is not None)


@pytest.mark.parametrize("junk", [None, 7, "x", [], {}, [None], [[]], [{}], {"a": None}, True, [1, "a", {}]])
@pytest.mark.parametrize(
    "path",
    [
        "schema.roles", "schema.roles[0]", "schema.roles[0].groupAssociation", "schema.channels", "schema.channels[0]",
        "schema.channels[0].pair", "schema.channels[0].funcTags", "schema.channels[0].funcTags.trainer",
        "schema.channels[0].groupBy", "schema.channels[0].groupBy.value", "dataset.datasets", "dataset.datasets[0]",
        "dataset.datasets[0].partition", "dataset.dataSpec", "dataset.dataSpec[0]", "dataset.dataSpec[0].datasets",
        "dataset.dataSpec[0].datasetGroups", "job.code", "job.roles", "job.evaluate", "job.hyperparameters",
    ],
)  # fmt: skip
def test_junk_anywhere_is_told_or_legal_but_never_a_crash(wrong: Wrong, path: str, junk: Any):
    problems = wrong(H, {path: junk})
    assert len({(problem.place, problem.reason) for problem in problems}) == len(problems)
    if not path.startswith("job"):
        assert problems


def test_the_error_shows_every_problem_with_its_value(documents_of: Callable[..., Any], edited: Callable[..., Any]):
    documents = edited(documents_of(*H), {"schema.channels[0].backend": "mqtt", "job.seed": -1})
    with pytest.raises(InvalidConfig) as raised:
        build_plan(documents["schema"], documents["dataset"], documents["job"])
    assert str(raised.value).splitlines() == [
        "2 problems in the configuration:",
        "  schema.channels[0].backend (channel param-channel) = 'mqtt': is not a legal value (legal: auto, grpc, p2p, shm, inproc)",
        "  job.seed = -1: must be at least 0 (All randomness derives from it.)",
    ]


def test_a_url_that_cannot_be_used_is_told_once_for_all_parts(documents_of: Callable[..., Any]):
    documents = documents_of(*H)
    documents["dataset"]["datasets"][2]["url"] = "ftp://x"
    _, problems = plan_or_problems(
        documents["schema"],
        documents["dataset"],
        documents["job"],
        check_url=lambda url: "no such scheme" if url.startswith("ftp") else None,
    )
    assert [str(problem) for problem in problems] == ["dataset.datasets[2].url (dataset mnist-canada) = 'ftp://x': no such scheme"]
