"""The short chaos suite: each topology, each kind of worker, each policy, each fault, with real processes. `make chaos` plays all.

A scenario that fails is played again alone by `python -m tests.chaos --only SCENARIO --keep FOLDER`.
"""

import os

import pytest

from tests.chaos.play import Theatre
from tests.chaos.scenarios import OF_RUNNER, OF_WORKERS, POLICIES, Scenario, at_random
from tests.chaos.shapes import built_in, shape

CHOSEN = (
    "two_tier/trainer-1/registering/-/SIGKILL/continue",
    "two_tier/aggregator-0/aggregating/2/raise:MemoryError/fail",
    "two_tier/trainer-1/between/2/everybody/fail",
    "hierarchical/middle-aggregator-1/uploading/2/SIGKILL/continue",
    "hierarchical/top-aggregator-0/distributing/2/exit:3/restart",
    "hierarchical_groups/middle-aggregator-0/receiving/2/unpicklable/restart",
    "coordinated/trainer-2/training/2/SIGKILL/restart",
    "coordinated/coordinator-0/assigning/2/SIGKILL/restart",
    "coordinated/coordinator-0/telling/2/raise:RuntimeError/continue",
    "coordinated/middle-aggregator-0/aggregating/-/SIGKILL/continue",
    "coordinated/trainer-1/uploading/2/runner:SIGKILL/fail",
    "four_tier/leaf-aggregator-2/aggregating/2/exit:0/continue",
    "four_tier/middle-aggregator-1/joining/-/SIGKILL/restart",
    "parallel/aggregator-2/between/1/raise:RuntimeError/continue",
    "realms/trainer-5/assembling/-/unpicklable/fail",
    "realms_three_tier/trainer-0/training/3/SIGSTOP/restart",
    "two_tier/trainer-0/uploading/1/runner:SIGSTOP/fail",
    "parallel/aggregator-0/aggregating/3/runner:SIGTERM/fail",
)
"""Scenarios of the systematic part."""
NUMBERS = (0, 5, 8, 11)
"""Random scenarios of seed 0."""


@pytest.fixture(scope="session")
def theatre(tmp_path_factory: pytest.TempPathFactory) -> Theatre:
    """Where scenarios are played; processes that test together share the undisturbed runs."""
    mine = tmp_path_factory.getbasetemp()
    return Theatre((mine.parent if "PYTEST_XDIST_WORKER" in os.environ else mine) / "chaos")


def test_the_short_suite_meets_every_topology_kind_of_worker_policy_and_fault() -> None:
    chosen = [Scenario.parse(text) for text in CHOSEN]
    assert {each.topology for each in chosen} == set(built_in())
    suffering = [each for each in chosen if not each.of_runner]
    kinds = {(shape(each.topology).kinds[each.worker], each.policy) for each in suffering}
    assert {kind for kind, _ in kinds} == {"trainer", "middle", "root", "coordinator"}
    assert {policy for _, policy in kinds} == set(POLICIES)
    assert {each.fault for each in chosen} == {*OF_WORKERS, *OF_RUNNER}


@pytest.mark.timeout(900)  # two runs, each of which has a bound of its own
@pytest.mark.parametrize("scenario", CHOSEN)
def test_whatever_happens_the_job_ends_as_its_policy_says_and_leaves_nothing(scenario: str, theatre: Theatre) -> None:
    played = theatre.play(Scenario.parse(scenario))
    assert not played.problems, f"{played.command}\n" + "\n".join(played.problems)
    assert played.outcome != "not reached"


@pytest.mark.timeout(900)
@pytest.mark.parametrize("number", NUMBERS)
def test_a_random_fault_is_no_exception(number: int, theatre: Theatre) -> None:
    played = theatre.play(at_random(0, number))
    assert not played.problems, f"{played.command}\n" + "\n".join(played.problems)
