"""Random valid documents: the plan is the same each time, everyone has peers, and counts follow datasets and replicas."""

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from flame_run.topology.build import build_plan
from flame_run.topology.plan import Plan, plan_to_json

NAMES = st.sampled_from(["eu", "na", "asia", "west", "east"])
UP, DOWN = ["fetch", "upload"], ["distribute", "aggregate"]
JOB = {"name": "job"}
Documents = tuple[dict[str, Any], dict[str, Any], dict[str, int]]


def levels_of(leaves: list[tuple[str, ...]], tiers: int) -> list[list[str]]:
    """Labels of each channel from the bottom up: the leaves, then ever shorter prefixes of them."""
    depth = len(leaves[0])
    cuts = [max(1, depth - tier) for tier in range(tiers)]
    return [list(dict.fromkeys("/".join(leaf[:cut]) for leaf in leaves)) for cut in cuts]


@st.composite
def chains(draw: st.DrawFn) -> Documents:
    """A chain of tiers grouped by realm, one aggregator for each label; expected number of workers for each role."""
    depth = draw(st.integers(1, 4))
    tail = st.tuples(*[NAMES] * (depth - 1)) if depth > 1 else st.just(())
    leaves = [("default", *leaf) for leaf in draw(st.lists(tail, min_size=1, max_size=5, unique=True))]
    tiers = draw(st.integers(1, depth))
    levels = levels_of(leaves, tiers)
    roles: list[dict[str, Any]] = [{"name": "trainer", "isDataConsumer": True}]
    roles += [{"name": f"aggregator-{tier}"} for tier in range(tiers)]
    below = ["trainer", *[f"aggregator-{tier}" for tier in range(tiers - 1)]]
    channels: list[dict[str, Any]] = []
    for tier, (low, labels) in enumerate(zip(below, levels, strict=True)):
        pair = draw(st.permutations([low, f"aggregator-{tier}"]))
        group_by = {"groupBy": {"type": "tag", "value": draw(st.permutations(labels))}}
        if labels == ["default"] and draw(st.booleans()):
            group_by = {}
        tags = {low: UP, f"aggregator-{tier}": DOWN}
        channels.append({"name": f"channel-{tier}", "pair": list(pair), "funcTags": tags, **group_by})
    counts = [draw(st.integers(1, 4)) for _ in leaves]
    datasets = [
        {
            "name": f"data-{index}",
            "url": "builtin://mnist-mini",
            "realm": "/".join((*leaf, *draw(st.lists(NAMES, max_size=2)))),
            "partition": {"strategy": "iid", "count": count},
        }
        for index, (leaf, count) in enumerate(zip(leaves, counts, strict=True))
    ]
    spec = {"datasets": datasets, "dataSpec": [{"role": "trainer", "datasets": [entry["name"] for entry in datasets]}]}
    expected = {"trainer": sum(counts)} | {f"aggregator-{tier}": len(labels) for tier, labels in enumerate(levels)}
    order = draw(st.permutations(roles))
    return {"name": "random", "roles": list(order), "channels": draw(st.permutations(channels))}, spec, expected


@st.composite
def coordinated(draw: st.DrawFn) -> Documents:
    """Associations with replicas under a coordinator."""
    labels = draw(st.lists(NAMES, min_size=1, max_size=4, unique=True))
    replica = draw(st.integers(1, 4))
    everywhere = {"top-channel": "default", "middle-channel": "default", "trainer-channel": "default"}
    roles = [
        {"name": "coordinator", "groupAssociation": [everywhere]},
        {"name": "top", "groupAssociation": [{"top-channel": "default", "global": "default"}]},
        {
            "name": "middle",
            "replica": replica,
            "groupAssociation": [{"middle-channel": "default", "global": "default", "param": label} for label in labels],
        },
        {
            "name": "trainer",
            "isDataConsumer": True,
            "groupAssociation": [{"trainer-channel": "default", "param": label} for label in labels],
        },
    ]
    default = {"type": "tag", "value": ["default"]}
    answers = {"top": "coordinateWithTopAgg", "middle": "coordinateWithMidAgg", "trainer": "coordinateWithTrainer"}
    channels: list[dict[str, Any]] = [
        {
            "name": f"{role}-channel",
            "pair": [role, "coordinator"],
            "groupBy": default,
            "funcTags": {role: ["coordinate"], "coordinator": [tag]},
        }
        for role, tag in answers.items()
    ]
    channels += [
        {"name": "global", "pair": ["middle", "top"], "groupBy": default, "funcTags": {"middle": UP, "top": DOWN}},
        {
            "name": "param",
            "pair": ["trainer", "middle"],
            "groupBy": {"type": "tag", "value": labels},
            "funcTags": {"trainer": UP, "middle": DOWN},
        },
    ]
    counts = {label: draw(st.integers(1, 3)) for label in labels}
    names = {label: [f"{label}-{index}" for index in range(count)] for label, count in counts.items()}
    datasets = [{"name": name, "url": "builtin://mnist-mini", "realm": "default"} for group in names.values() for name in group]
    expected = {"coordinator": 1, "top": 1, "middle": replica * len(labels), "trainer": sum(counts.values())}
    schema = {"name": "random", "roles": list(draw(st.permutations(roles))), "channels": draw(st.permutations(channels))}
    return schema, {"datasets": datasets, "dataSpec": [{"role": "trainer", "datasetGroups": names}]}, expected


def count(plan: Plan, role: str) -> int:
    return sum(worker.role == role for worker in plan.workers)


@settings(max_examples=150, deadline=None)
@given(st.one_of(chains(), coordinated()))
def test_a_random_valid_schema_expands_the_same_each_time_and_everyone_has_peers(documents: Documents):
    schema, dataset, expected = documents
    plan = build_plan(schema, dataset, JOB)
    again = build_plan(json.loads(json.dumps(schema)), json.loads(json.dumps(dataset)), JOB)
    assert plan_to_json(plan) == plan_to_json(again)
    assert {role: count(plan, role) for role in expected} == expected
    assert list(dict.fromkeys(worker.role for worker in plan.workers)) == [role["name"] for role in schema["roles"]]
    on = {role["name"]: {edge["name"] for edge in schema["channels"] if role["name"] in edge["pair"]} for role in schema["roles"]}
    for worker in plan.workers:
        assert set(worker.groups) == on[worker.role]
        assert worker.name == f"{worker.role}-{worker.index}"
        for channel, label in worker.groups.items():
            ends = plan.ends(worker.name, channel)
            assert ends
            assert all(plan.worker(end).groups[channel] == label for end in ends)


@settings(max_examples=60, deadline=None)
@given(chains())
def test_a_trainer_has_one_aggregator_and_every_path_upwards_ends_at_a_root(documents: Documents):
    schema, dataset, _ = documents
    plan = build_plan(schema, dataset, JOB)
    up = {edge.name: role for edge in plan.channels for role, tags in edge.func_tags.items() if "fetch" in tags}
    for worker in plan.workers:
        name, steps = worker.name, 0
        while name not in plan.roots:
            (channel,) = [channel for channel in plan.worker(name).groups if up[channel] == plan.worker(name).role]
            (name,) = plan.ends(name, channel)
            steps += 1
            assert steps <= len(plan.channels)
