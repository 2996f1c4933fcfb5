"""Workers that can only dial out: who connects to whom, and graphs in which two of them would have to meet."""

from collections.abc import Callable
from typing import Any

import pytest

from flame_run.topology.build import build_plan
from flame_run.topology.plan import Plan


@pytest.fixture
def plan_with(documents_of: Any, edited: Any) -> Callable[..., Plan]:
    def build(edits: dict[str, Any], schema: str = "two_tier", dataset: str = "default") -> Plan:
        documents = edited(documents_of(schema, dataset), edits)
        return build_plan(documents["schema"], documents["dataset"], documents["job"])

    return build


def test_whoever_can_only_dial_out_dials_and_the_other_end_listens(plan_with: Callable[..., Plan]) -> None:
    usual = plan_with({})
    assert usual.dials("aggregator-0", "param-channel") == ()
    turned = plan_with({"job.roles.aggregator.dialOnly": True})
    assert turned.dials("aggregator-0", "param-channel") == tuple(f"trainer-{index}" for index in range(4))
    assert turned.dials("trainer-0", "param-channel") == ()
    assert turned.dial_only == {"aggregator-0"}


def test_a_list_names_single_workers(plan_with: Callable[..., Plan]) -> None:
    plan = plan_with({"job.roles.trainer.dialOnly": ["trainer-1"]})
    assert plan.dial_only == {"trainer-1"}
    assert plan.dials("trainer-0", "param-channel") == plan.dials("trainer-1", "param-channel") == ("aggregator-0",)


@pytest.mark.parametrize("bound", [["middle-aggregator-0"], ["middle-aggregator-1"], []])
def test_exactly_one_of_two_ends_dials_the_other(plan_with: Callable[..., Plan], bound: list[str]) -> None:
    edits = {"job.roles.middle-aggregator.dialOnly": bound} if bound else {}
    plan = plan_with(edits, "hierarchical", "default")
    for worker in plan.workers:
        for channel in worker.groups:
            for end in plan.ends(worker.name, channel):
                assert (end in plan.dials(worker.name, channel)) != (worker.name in plan.dials(end, channel))


def test_two_of_them_on_one_channel_are_a_problem_that_names_both(told_once: Any) -> None:
    edits = {"job.roles.trainer.dialOnly": ["trainer-2"], "job.roles.aggregator.dialOnly": True}
    place = "schema.channels[0] (channel param-channel)"
    told_once(("two_tier", "default"), edits, place, "trainer-2 and aggregator-0 meet on it, and both can only dial out")


def test_a_ring_among_them_is_a_problem_that_names_two(wrong: Any) -> None:
    ring = {"name": "ring-channel", "pair": ["trainer", "trainer"], "funcTags": {"trainer": []}}
    edits = {"job.roles.trainer.dialOnly": True, "schema.channels[+]": ring}
    found = {problem.place: problem.reason for problem in wrong(("two_tier", "default"), edits)}
    assert "trainer-0 and trainer-1 meet on it" in found["schema.channels[1] (channel ring-channel)"]


def test_a_name_that_is_no_worker_of_the_role_is_a_problem(told_once: Any) -> None:
    place = "job.roles.trainer.dialOnly[0] (role trainer)"
    told_once(("two_tier", "default"), {"job.roles.trainer.dialOnly": ["trainer-9"]}, place, "no such worker", "trainer-0")


def test_a_dataset_whose_place_only_its_site_knows_is_not_evaluated_on(plan_with: Callable[..., Plan]) -> None:
    plan = plan_with({"dataset.datasets[0].url": "site://"})
    assert plan.evaluation is not None
    assert plan.evaluation.name == "mnist-uk"
    nowhere = plan_with({f"dataset.datasets[{index}].url": "site://" for index in range(4)})
    assert nowhere.evaluation is None
