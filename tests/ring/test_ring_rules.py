"""What the runner makes of rings in a schema: who is a root, who takes its place, and what is refused."""

from copy import deepcopy
from typing import Any

import pytest

from flame_run.errors import Problem
from flame_run.run.faults import FaultsConf, check_faults_of_plan
from flame_run.topology.build import build_plan, plan_or_problems
from flame_run.topology.plan import Plan

UP, DOWN = ["fetch", "upload"], ["distribute", "aggregate"]
REALMS = {"a": "default/eu/x", "b": "default/eu/y", "c": "default/na/x", "d": "default/na/y"}
JOB: dict[str, Any] = {"name": "job"}


def channel(name: str, pair: list[str], tags: dict[str, list[str]], *labels: str) -> dict[str, Any]:
    return {"name": name, "pair": pair, "funcTags": tags, "groupBy": {"type": "tag", "value": list(labels)}}


RING = channel("ring", ["trainer", "trainer"], {"trainer": ["ring_allreduce"]}, "default/eu", "default/na")
PARAM = channel("param", ["trainer", "aggregator"], {"trainer": UP, "aggregator": DOWN}, "default")
TRAINER, AGGREGATOR = {"name": "trainer", "isDataConsumer": True}, {"name": "aggregator"}
DATASET = {
    "datasets": [
        {"name": name, "url": "builtin://mnist-mini", "dataFormat": "idx", "realm": realm} for name, realm in REALMS.items()
    ],
    "dataSpec": [{"role": "trainer", "datasets": list(REALMS)}],
}


def schema(roles: list[dict[str, Any]], *channels: dict[str, Any]) -> dict[str, Any]:
    return {"name": "rings", "description": "", "roles": roles, "channels": list(deepcopy(channels))}


def plan(*, hybrid: bool, job: dict[str, Any] = JOB) -> Plan:
    return build_plan(schema([TRAINER, AGGREGATOR], PARAM, RING) if hybrid else schema([TRAINER], RING), DATASET, job)


def problems(document: dict[str, Any], job: dict[str, Any] = JOB) -> list[Problem]:
    return plan_or_problems(document, DATASET, job)[1]


def test_each_ring_without_an_aggregator_has_a_root_and_its_heirs() -> None:
    rings = plan(hybrid=False)
    assert rings.roots == ("trainer-0", "trainer-2")
    assert rings.heirs == {"trainer-0": ("trainer-1",), "trainer-2": ("trainer-3",)}
    assert [rings.root_of(f"trainer-{index}") for index in range(4)] == ["trainer-0", "trainer-0", "trainer-2", "trainer-2"]


def test_below_an_aggregator_nobody_of_a_ring_is_a_root() -> None:
    groups = plan(hybrid=True)
    assert groups.roots == ("aggregator-0",)
    assert groups.heirs == {}
    assert [groups.root_of(name) for name in ("trainer-0", "aggregator-0")] == [None, "aggregator-0"]
    assert groups.ends("trainer-3", "ring") == ("trainer-2",)
    assert groups.dials("trainer-3", "ring") == ("trainer-2",)


def test_a_ring_between_two_roles_is_refused() -> None:
    (found,) = problems(
        schema([TRAINER, AGGREGATOR], PARAM | {"funcTags": {"trainer": [*UP, "ring_allreduce"], "aggregator": DOWN}})
    )
    assert found.place == "schema.channels[0].funcTags.trainer[2] (channel param)"
    assert "a ring is of workers of one role, and this channel pairs 'trainer' with 'aggregator'" in found.reason


def test_a_ring_across_the_groups_of_two_aggregators_is_refused() -> None:
    param = PARAM | {"groupBy": {"type": "tag", "value": ["default/eu", "default/na"]}}
    ring = RING | {"groupBy": {"type": "tag", "value": ["default"]}}
    (found,) = problems(schema([TRAINER, AGGREGATOR], param, ring))
    assert found.place == "schema.channels[1].funcTags.trainer[0] (channel ring)"
    assert "the ring of group default has members in the groups default/eu, default/na of channel param" in found.reason


def test_members_that_can_only_dial_out_are_refused() -> None:
    job = {"name": "job", "roles": {"trainer": {"dialOnly": True}}}
    found = problems(schema([TRAINER], RING), job)
    assert [problem.place for problem in found] == ["schema.channels[0] (channel ring)"] * 2
    assert "trainer-0 and trainer-1 meet on it, and both can only dial out" in found[0].reason


@pytest.mark.parametrize(("hybrid", "faults", "place"), [
    (False, FaultsConf(min_ends=3), "faults.min_ends"),
    (True, FaultsConf(channels={"ring": {"min_ends": 3}}), "faults.channels.ring.min_ends"),
    (True, FaultsConf(max_bad_updates=2), "faults.max_bad_updates"),
])  # fmt: skip
def test_a_policy_that_no_ring_can_keep_is_refused(hybrid: bool, faults: FaultsConf, place: str) -> None:
    assert [problem.place for problem in check_faults_of_plan(faults, plan(hybrid=hybrid))] == [place]


def test_all_members_of_a_ring_count_for_the_policy() -> None:
    assert check_faults_of_plan(FaultsConf(min_ends=2), plan(hybrid=False)) == []
