"""Schemas in the shape of Flame's own examples expand as Flame expands them, in our order."""

import sys
import types
from typing import Any

import pytest

from flame_run.topology.build import build_plan, plan_or_problems
from flame_run.topology.plan import Plan

UP, DOWN = ["fetch", "upload"], ["distribute", "aggregate"]


class PlainTrainer:
    """Knows no ring."""

    @classmethod
    def get_func_tags(cls) -> list[str]:
        return [*UP, "gossip"]


def role(name: str, *associations: dict[str, str], **keys: Any) -> dict[str, Any]:
    return {"name": name, "description": name, **keys, **({"groupAssociation": list(associations)} if associations else {})}


def channel(name: str, labels: list[str], pair: list[str], **keys: Any) -> dict[str, Any]:
    tags = {pair[0]: UP, pair[1]: DOWN} if pair[0] != pair[1] else {pair[0]: ["ring_allreduce"]}
    return {"name": name, "pair": pair, "groupBy": {"type": "tag", "value": labels}, "funcTags": tags, **keys}


def schema(roles: list[dict[str, Any]], channels: list[dict[str, Any]]) -> dict[str, Any]:
    return {"name": "A Flame example v1.0.0", "description": "", "roles": roles, "channels": channels}


def dataset(groups: dict[str, list[str]], realm: str = "default/us") -> dict[str, Any]:
    url = "https://storage.googleapis.com/tensorflow/tf-keras-datasets/"
    names = [name for names in groups.values() for name in names]
    return {
        "datasets": [
            {"name": name, "url": f"{url}{name}.npz", "dataFormat": "npz", "realm": realm, "isPublic": True, "//": "a placeholder"}
            for name in names
        ],
        "dataSpec": [{"role": "trainer", "datasetGroups": groups}],
    }


def workers(plan: Plan) -> list[tuple[str, dict[str, str], str | None]]:
    return [(worker.name, dict(worker.groups), worker.dataset.name if worker.dataset else None) for worker in plan.workers]


JOB = {"name": "job"}
TRAINER_AND_AGGREGATOR = [
    role("trainer", {"param-channel": "us"}, isDataConsumer=True),
    role("aggregator", {"param-channel": "us"}, replica=1),
]


def test_mnist_is_one_trainer_and_one_aggregator():
    plan = build_plan(
        schema(TRAINER_AND_AGGREGATOR, [channel("param-channel", ["us"], ["trainer", "aggregator"])]),
        dataset({"us": ["mnist"]}),
        JOB,
    )
    assert workers(plan) == [("trainer-0", {"param-channel": "us"}, "mnist"), ("aggregator-0", {"param-channel": "us"}, None)]


def test_medmnist_is_ten_sites_in_the_order_of_the_data_spec():
    sites = [f"site{number}" for number in range(1, 11)]
    plan = build_plan(
        schema(TRAINER_AND_AGGREGATOR, [channel("param-channel", ["us"], ["trainer", "aggregator"])]), dataset({"us": sites}), JOB
    )
    assert [worker.dataset.name for worker in plan.workers if worker.dataset] == sites
    assert len(plan.workers) == 11


@pytest.fixture
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("flame_example_roles")
    module.__dict__["PlainTrainer"] = PlainTrainer
    monkeypatch.setitem(sys.modules, "flame_example_roles", module)


PLAIN_JOB = {"name": "ring", "code": {"trainer": "flame_example_roles.PlainTrainer"}}


def test_distributed_training_is_three_trainers_in_a_ring():
    roles = [role("trainer", {"param-channel": "us"}, isDataConsumer=True)]
    names = ["mnist_1", "mnist_2", "mnist_3"]
    plan = build_plan(schema(roles, [channel("param-channel", ["us"], ["trainer", "trainer"])]), dataset({"us": names}), JOB)
    assert workers(plan) == [(f"trainer-{index}", {"param-channel": "us"}, name) for index, name in enumerate(names)]
    assert plan.ends("trainer-1", "param-channel") == ("trainer-0", "trainer-2")
    assert plan.dials("trainer-1", "param-channel") == ("trainer-0",)
    assert plan.hosts("param-channel") == "trainer"
    assert plan.roots == ("trainer-0",)
    assert plan.heirs == {"trainer-0": ("trainer-1", "trainer-2")}


def test_a_ring_without_associations_follows_the_realms():
    roles = [role("trainer", isDataConsumer=True)]
    spec = dataset({"default/us": ["a", "b"]}, realm="default/us/west")
    plan = build_plan(schema(roles, [channel("param-channel", ["default/us"], ["trainer", "trainer"])]), spec, JOB)
    assert [worker.groups["param-channel"] for worker in plan.workers] == ["default/us", "default/us"]


def test_a_ring_needs_a_class_that_has_its_function(importable: None):
    roles = [role("trainer", {"param-channel": "us"}, isDataConsumer=True)]
    _, problems = plan_or_problems(
        schema(roles, [channel("param-channel", ["us"], ["trainer", "trainer"])]), dataset({"us": ["a", "b"]}), PLAIN_JOB
    )
    assert [problem.place for problem in problems] == ["schema.channels[0].funcTags.trainer[0] (channel param-channel)"]


def test_somebody_alone_among_equals_is_told_unless_it_is_a_ring(importable: None):
    roles = [role("trainer", {"param-channel": "us"}, isDataConsumer=True)]
    ring = channel("param-channel", ["us"], ["trainer", "trainer"])
    assert build_plan(schema(roles, [ring]), dataset({"us": ["a"]}), JOB).ends("trainer-0", "param-channel") == ()
    gossip = ring | {"funcTags": {"trainer": ["gossip"]}}
    _, problems = plan_or_problems(schema(roles, [gossip]), dataset({"us": ["a"]}), PLAIN_JOB)
    assert "trainer-0 is alone in this group" in problems[0].reason


def test_functions_that_need_two_roles_are_refused_among_equals(importable: None):
    roles = [role("trainer", {"param-channel": "us"}, isDataConsumer=True)]
    ring = channel("param-channel", ["us"], ["trainer", "trainer"]) | {"funcTags": {"trainer": UP}}
    _, problems = plan_or_problems(schema(roles, [ring]), dataset({"us": ["a", "b"]}), JOB)
    assert ["'fetch' needs distribute and aggregate at another role" in problem.reason for problem in problems] == [True]


def test_hier_mnist_is_two_middle_aggregators_one_top_and_four_trainers():
    roles = [
        role("trainer", {"param-channel": "eu"}, {"param-channel": "na"}, isDataConsumer=True),
        role(
            "middle-aggregator",
            {"param-channel": "eu", "global-channel": "default"},
            {"param-channel": "na", "global-channel": "default"},
            replica=1,
        ),
        role("top-aggregator", {"global-channel": "default"}, replica=1),
    ]
    channels = [
        channel("param-channel", ["eu", "na"], ["trainer", "middle-aggregator"]),
        channel("global-channel", ["default"], ["middle-aggregator", "top-aggregator"]),
    ]
    plan = build_plan(schema(roles, channels), dataset({"eu": ["mnist_1", "mnist_2"], "na": ["mnist_3", "mnist_4"]}), JOB)
    assert workers(plan) == [
        ("trainer-0", {"param-channel": "eu"}, "mnist_1"),
        ("trainer-1", {"param-channel": "eu"}, "mnist_2"),
        ("trainer-2", {"param-channel": "na"}, "mnist_3"),
        ("trainer-3", {"param-channel": "na"}, "mnist_4"),
        ("middle-aggregator-0", {"param-channel": "eu", "global-channel": "default"}, None),
        ("middle-aggregator-1", {"param-channel": "na", "global-channel": "default"}, None),
        ("top-aggregator-0", {"global-channel": "default"}, None),
    ]


def test_replicas_without_a_coordinator_are_told_because_nobody_would_serve_the_second():
    roles = [
        role("trainer", {"param-channel": "red"}, isDataConsumer=True),
        role("middle-aggregator", {"param-channel": "red", "global-channel": "black"}, replica=2),
        role("top-aggregator", {"global-channel": "black"}),
    ]
    channels = [
        channel("param-channel", ["red"], ["trainer", "middle-aggregator"]),
        channel("global-channel", ["black"], ["middle-aggregator", "top-aggregator"]),
    ]
    _, problems = plan_or_problems(schema(roles, channels), dataset({"red": ["mnist_1"]}), JOB)
    assert [problem.place for problem in problems] == ["schema.channels[0].groupBy.value[0] (channel param-channel)"]
    assert "2 workers (middle-aggregator-0, middle-aggregator-1) distribute to role trainer" in problems[0].reason


def test_hybrid_is_two_rings_under_one_aggregator():
    roles = [
        role(
            "trainer",
            {"param-channel": "us", "global-channel": "default"},
            {"param-channel": "eu", "global-channel": "default"},
            isDataConsumer=True,
        ),
        role("aggregator", {"global-channel": "default"}, replica=1),
    ]
    channels = [
        channel("param-channel", ["eu", "us"], ["trainer", "trainer"], backend="p2p"),
        channel("global-channel", ["default"], ["trainer", "aggregator"]),
    ]
    plan = build_plan(schema(roles, channels), dataset({"eu": ["mnist_1", "mnist_2"], "us": ["mnist_3", "mnist_4"]}), JOB)
    assert workers(plan) == [
        ("trainer-0", {"param-channel": "eu", "global-channel": "default"}, "mnist_1"),
        ("trainer-1", {"param-channel": "eu", "global-channel": "default"}, "mnist_2"),
        ("trainer-2", {"param-channel": "us", "global-channel": "default"}, "mnist_3"),
        ("trainer-3", {"param-channel": "us", "global-channel": "default"}, "mnist_4"),
        ("aggregator-0", {"global-channel": "default"}, None),
    ]
    assert plan.channel("param-channel").backend == "grpc"
    assert plan.roots == ("aggregator-0",)


PARALLEL_ROLES = [
    role("trainer", *[{"param-channel": label} for label in ("us", "eu", "asia")], isDataConsumer=True),
    role("aggregator", *[{"param-channel": label} for label in ("us", "eu", "asia")], replica=1),
]


def test_a_parallel_experiment_is_three_pairs():
    channels = [channel("param-channel", ["us", "eu", "asia"], ["trainer", "aggregator"])]
    plan = build_plan(schema(PARALLEL_ROLES, channels), dataset({"asia": ["mnist_5"], "eu": ["mnist_2"], "us": ["mnist_4"]}), JOB)
    assert workers(plan) == [
        ("trainer-0", {"param-channel": "asia"}, "mnist_5"),
        ("trainer-1", {"param-channel": "eu"}, "mnist_2"),
        ("trainer-2", {"param-channel": "us"}, "mnist_4"),
        ("aggregator-0", {"param-channel": "us"}, None),
        ("aggregator-1", {"param-channel": "eu"}, None),
        ("aggregator-2", {"param-channel": "asia"}, None),
    ]


def test_the_group_that_flame_maps_to_nothing_is_told():
    channels = [channel("param-channel", ["us", "eu", "asia"], ["trainer", "aggregator"])]
    spec = dataset({"asia": ["mnist_5"], "uk": ["mnist_2"], "us": ["mnist_4"]})
    _, problems = plan_or_problems(schema(PARALLEL_ROLES, channels), spec, JOB)
    assert [problem.place for problem in problems] == ["dataset.dataSpec[0].datasetGroups.uk (role trainer)"]
    assert problems[0].legal == "legal: us, eu, asia"


def test_a_dataset_may_be_named_by_its_id():
    spec = dataset({"us": ["mnist"]})
    spec["datasets"][0] |= {"id": "629a403622f4715eabf99c5b", "userId": "john", "computeId": "default"}
    spec["dataSpec"][0]["datasetGroups"] = {"us": ["629a403622f4715eabf99c5b"]}
    plan = build_plan(schema(TRAINER_AND_AGGREGATOR, [channel("param-channel", ["us"], ["trainer", "aggregator"])]), spec, JOB)
    assert workers(plan)[0] == ("trainer-0", {"param-channel": "us"}, "mnist")
