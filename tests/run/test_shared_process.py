"""What the supervisor makes of a process that workers share: its end, and a turn in it that is long."""

from typing import Any

import pytest

from flame_run.run import events as run
from flame_run.run.faults import FaultsConf
from tests.run.flow import Job

SHARED = 77


def shared(plan: Any, policy: str) -> Any:
    """A job in round 1 whose trainers share a process."""
    job: Any = Job(plan, faults=FaultsConf(on_worker_loss=policy, join_timeout=60.0))
    job.join("aggregator-0").join("trainer-0", "trainer-1", processes=False, pid=SHARED)
    for name in ("aggregator-0", "trainer-0", "trainer-1"):
        job.state(name, "running", round=1)
    return job


def test_who_had_the_turn_fails_the_job(plan: Any) -> None:
    job = shared(plan, "fail")
    for name in ("trainer-0", "trainer-1"):
        job.lost(name)
    job.process("trainer-1", "exit 7", pid=SHARED)
    job.process("trainer-0", "exit 7 of trainer-1", pid=SHARED)
    job.leave("aggregator-0")
    assert job.finish.error == "trainer-1 ended with exit status 7 in round 1 in a process shared with trainer-0"
    assert job.finish.culprits == ("trainer-1",)
    assert job.states["trainer-0"] == "terminated"


def test_with_continue_the_others_are_lost_with_it(plan: Any) -> None:
    job = shared(plan, "continue")
    job.process("trainer-1", "exit 7", pid=SHARED)
    job.process("trainer-0", "exit 7 of trainer-1", pid=SHARED)
    assert job.states == {"aggregator-0": "running", "trainer-0": "failed", "trainer-1": "failed"}
    first = "trainer-1 ended with exit status 7 in round 1 in a process shared with trainer-0"
    then = "trainer-0 was lost in round 1 with trainer-1 of the same process, which ended with exit status 7"
    assert job.of(run.Warn) == [
        run.Warn(f"{first}; the job goes on without it", "trainer-1"),
        run.Warn(f"{then}; the job goes on without it", "trainer-0"),
    ]


@pytest.mark.parametrize("policy", ["fail", "continue"])
def test_a_long_turn_is_a_warning_and_nothing_else(plan: Any, policy: str) -> None:
    job = shared(plan, policy)
    before = job.supervisor.tasks()
    actions = job.process("trainer-1", "long turn: 60", pid=SHARED)
    assert actions == [
        run.Warn("trainer-1 has had the turn for 60 s in round 1; 1 other worker of its process waits for it", "trainer-1")
    ]
    assert job.supervisor.tasks() == before
    job.complete("trainer-0", "trainer-1", "aggregator-0")
    assert job.finish.status == "completed"
