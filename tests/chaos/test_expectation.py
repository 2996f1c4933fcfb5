"""What is expected of a job is tested by itself: the suite is only as good as this function."""

import re

import pytest

from tests import chaos_points
from tests.chaos import scenarios
from tests.chaos.expectation import CAUSES, Expected, expect
from tests.chaos.scenarios import MOMENT, MOMENTS, OF_RUNNER, OF_WORKERS, POLICIES, Scenario, at_random, systematic
from tests.chaos.shapes import CONF, ELSEWHERE, built_in, overrides, shape, shipped, uncovered


def expected(text: str) -> Expected:
    """The only right ending of a scenario."""
    scenario = Scenario.parse(text)
    (only,) = expect(scenario, shape(scenario.topology))
    return only


def test_every_shipped_topology_is_covered() -> None:
    assert len(built_in()) >= 8
    assert uncovered() == []
    assert {*built_in(), *ELSEWHERE} == set(shipped())
    for topology, path in ELSEWHERE.items():
        text = (CONF.parent / path).read_text(encoding="utf-8")
        assert topology in path or topology in text, path
        assert re.search(r"SIGKILL|Killed", text), path


def test_a_topology_that_is_not_covered_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.chaos.shapes.built_in", lambda: ["two_tier", "star"])
    assert uncovered() == ["star"]


def test_the_systematic_part_meets_each_role_at_each_point_with_each_fault_under_each_policy() -> None:
    played = list(systematic())
    assert len(set(map(str, played))) == len(played)
    for topology in built_in():
        here = shape(topology)
        mine = [each for each in played if each.topology == topology]
        assert {here.roles[each.worker] for each in mine} == set(here.roles.values())
    for kind, points in chaos_points.POINTS.items():
        of_kind = [each for each in played if shape(each.topology).kinds[each.worker] == kind]
        assert {(each.point, each.policy) for each in of_kind} == {(point, policy) for point in points for policy in POLICIES}
        assert {each.point for each in of_kind if each.of_runner} == set(points)
    assert {(each.fault, each.policy) for each in played} >= {(fault, policy) for fault in OF_WORKERS for policy in POLICIES}
    assert {each.fault for each in played} >= set(OF_RUNNER)


def test_a_random_scenario_is_the_same_whenever_it_is_asked_for() -> None:
    drawn = [at_random(7, number) for number in range(scenarios.RANDOM)]
    assert drawn == [at_random(7, number) for number in range(scenarios.RANDOM)]
    assert drawn != [at_random(8, number) for number in range(scenarios.RANDOM)]
    assert len(set(drawn)) > scenarios.RANDOM / 2
    assert {each.topology for each in drawn} == set(built_in())
    assert {each.fault for each in drawn if each.point == MOMENT} == set(MOMENTS)


def test_the_text_of_a_scenario_says_all_of_it() -> None:
    for scenario in [*systematic(), *(at_random(0, number) for number in range(scenarios.RANDOM))]:
        assert Scenario.parse(str(scenario)) == scenario


def test_every_fault_has_words_that_tell_it() -> None:
    assert set(CAUSES) == {*OF_WORKERS, *MOMENTS}


def test_dependants_are_those_whose_every_parent_is_lost() -> None:
    four = shape("four_tier")
    assert four.stranded("middle-aggregator-1") == {"leaf-aggregator-2", "trainer-4", "trainer-5"}
    assert four.stranded("trainer-0") == frozenset()
    assert four.trainers_below("leaf-aggregator-0") == {"trainer-0", "trainer-1"}
    assert four.trainers_below("trainer-3") == {"trainer-3"}
    assert shape("coordinated").stranded("middle-aggregator-0") == frozenset()
    assert shape("parallel").stranded("aggregator-1") == {"trainer-2", "trainer-3"}


def test_with_fail_the_culprit_is_named_and_the_job_can_be_resumed() -> None:
    told = expected("two_tier/trainer-1/training/2/raise:MemoryError/fail")
    assert (told.exit, told.status, told.resumes) == (1, "failed", True)
    assert told.states == {"trainer-1": frozenset({"failed"})}
    assert told.said == ("MemoryError: chaos",)


def test_with_restart_nothing_is_lost() -> None:
    for worker in ("trainer-0", "middle-aggregator-1", "top-aggregator-0", "coordinator-0"):
        told = expected(f"coordinated/{worker}/between/1/SIGKILL/restart")
        assert (told.exit, told.status, told.model, dict(told.states)) == (0, "completed", "same", {})


def test_with_continue_only_what_nobody_can_replace_fails_the_job() -> None:
    assert expected("two_tier/trainer-0/training/1/SIGKILL/continue").exit == 0
    assert expected("two_tier/aggregator-0/aggregating/1/SIGKILL/continue").why_not
    assert expected("coordinated/coordinator-0/telling/1/SIGKILL/continue").exit == 1
    assert expected("coordinated/middle-aggregator-0/aggregating/1/SIGKILL/continue").exit == 0
    one_of_three = expected("parallel/aggregator-2/aggregating/1/SIGKILL/continue")
    assert (one_of_three.exit, set(one_of_three.states)) == (0, {"aggregator-2", "trainer-4", "trainer-5"})


def test_a_dead_runner_says_nothing_and_its_job_can_be_resumed() -> None:
    for fault in ("runner:SIGKILL", "everybody", "runner:SIGSTOP"):
        told = expected(f"two_tier/aggregator-0/aggregating/2/{fault}/fail")
        assert (told.exit, told.status, told.resumes) == (-9, None, True)
    assert expected("two_tier/aggregator-0/aggregating/2/runner:SIGTERM/fail").exit == 130


@pytest.mark.parametrize("policy", ["continue", "restart"])
def test_only_at_the_end_there_is_more_than_one_right_ending(policy: str) -> None:
    here = shape("two_tier")
    for point in chaos_points.POINTS["trainer"]:
        scenario = Scenario.parse(f"two_tier/trainer-1/{point}/-/SIGKILL/{policy}")
        assert len(expect(scenario, here)) == (2 if point == "ending" else 1)


def test_the_tiny_jobs_attach_fault_points_to_every_role() -> None:
    for topology in built_in():
        attached = [word for word in overrides(topology) if word.startswith("+job.code.")]
        assert len(attached) == len(set(shape(topology).roles.values()))
        assert (CONF / "schema" / f"{topology}.yaml").is_file()
