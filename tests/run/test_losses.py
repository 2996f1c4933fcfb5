"""What becomes of lost workers under `continue` and `restart`: every transition, without processes and without a clock."""

import dataclasses
from math import inf
from typing import Any

import pytest

from flame_run.control import events as control
from flame_run.run import events as run
from flame_run.run.faults import FaultsConf
from flame_run.topology.plan import Plan, Worker
from tests.run.flow import NAMES, Job


@pytest.fixture
def going_on(plan: Plan) -> Job:
    """A job with `continue`, in round 1."""
    job = Job(plan, faults=FaultsConf(on_worker_loss="continue", join_timeout=60.0))
    job.running()
    return job


def restarting(plan: Plan, **options: Any) -> Job:
    return Job(plan, faults=FaultsConf(on_worker_loss="restart", join_timeout=60.0, **options))


def test_going_on_a_lost_worker_has_failed_and_the_others_are_told(going_on: Job) -> None:
    actions = going_on.process("trainer-1", "killed by SIGKILL")
    words = "trainer-1 was killed by SIGKILL (out of memory?) in round 1"
    assert actions[1:] == [run.Warn(f"{words}; the job goes on without it", "trainer-1"), run.GiveUpWorker("trainer-1", words)]
    assert going_on.states == {"aggregator-0": "running", "trainer-0": "running", "trainer-1": "failed"}
    assert going_on.of(run.AbortJob) == []
    going_on.complete("aggregator-0", "trainer-0")
    assert going_on.finish == run.Finish(status="completed", exit_status=0)


@pytest.mark.parametrize("error", ["MemoryError", "SystemExit: 0"])
def test_going_on_a_worker_that_reports_its_own_failure_gets_time_to_end(going_on: Job, error: str) -> None:
    going_on.state("trainer-1", "failed", error=error)
    assert going_on.states["trainer-1"] == "failed"
    assert going_on.supervisor.deadline() == 3.0
    going_on.process("trainer-1", "exit 1", after=0.1)
    assert going_on.supervisor.deadline() == inf
    assert going_on.of(run.KillWorker) == []


def test_going_on_a_worker_that_does_not_end_is_killed(going_on: Job) -> None:
    going_on.state("trainer-1", "failed", error="boom")
    assert going_on.tick(3.0) == [run.KillWorker("trainer-1")]
    going_on.process("trainer-1", "killed by SIGKILL")
    assert going_on.supervisor.deadline() == inf


def test_a_silent_worker_is_killed_as_soon_as_it_is_judged(going_on: Job) -> None:
    going_on.lost("trainer-1", "trainer-1 was silent for 3 s")
    actions = going_on.tick(1.0)
    assert run.KillWorker("trainer-1") in actions or run.KillWorker("trainer-1") in going_on.tick(0.0)
    assert going_on.states["trainer-1"] == "failed"


def test_going_on_the_only_root_is_needed(going_on: Job) -> None:
    going_on.process("aggregator-0", "killed by SIGKILL")
    words = "aggregator-0 was killed by SIGKILL (out of memory?) in round 1; the job cannot go on without it"
    assert going_on.of(run.AbortJob) == [run.AbortJob(words)]


def test_going_on_one_root_of_two_may_be_lost(plan: Plan) -> None:
    more = Worker(name="aggregator-1", task_id="f" * 40, role="aggregator", index=1, groups={"param": "default"}, realm="default")
    run_ = Job(dataclasses.replace(plan, workers=(*plan.workers, more)), faults=FaultsConf(on_worker_loss="continue")).running()
    run_.process("aggregator-0", "exit 1")
    assert run_.of(run.AbortJob) == []
    run_.process("aggregator-1", "exit 1", pid=20)
    assert run_.of(run.AbortJob)[0].reason.endswith("the job cannot go on without it")


def test_going_on_a_coordinator_is_needed(plan: Plan) -> None:
    tags = {"trainer": ("coordinate",), "helper": ("coordinateWithTrainer",)}
    helper = Worker(name="helper-0", task_id="f" * 40, role="helper", index=0, groups={"ask": "default"}, realm="default")
    channel = dataclasses.replace(plan.channels[0], name="ask", pair=("trainer", "helper"), func_tags=tags)
    coordinated = dataclasses.replace(plan, workers=(*plan.workers, helper), channels=(*plan.channels, channel))
    run_ = Job(coordinated, faults=FaultsConf(on_worker_loss="continue")).running()
    run_.process("helper-0", "exit 1", pid=20)
    assert run_.of(run.AbortJob)[0].reason.endswith("the job cannot go on without it")


def test_going_on_orphans_are_lost_after_a_while(going_on: Job) -> None:
    going_on.state("trainer-0", "failed", error="its aggregator is gone", secondary=True)
    assert going_on.states["trainer-0"] == "running"
    going_on.tick(1.0)
    assert going_on.states["trainer-0"] == "failed"
    assert going_on.of(run.AbortJob) == []


def test_orphans_of_a_root_are_not_lost_before_it(going_on: Job) -> None:
    going_on.state("trainer-0", "failed", error="its aggregator is gone", secondary=True)
    going_on.process("aggregator-0", "killed by SIGKILL", after=0.5)
    assert going_on.states["trainer-0"] == "terminated"


def test_going_on_a_root_below_its_quorum_is_the_cause(going_on: Job) -> None:
    going_on.process("trainer-0", "exit 1")
    going_on.state("aggregator-0", "failed", error="round 1: 1 of 2 ends", secondary=True)
    going_on.tick(1.0)
    assert going_on.of(run.AbortJob)[0].reason == (
        "aggregator-0 failed in round 1: round 1: 1 of 2 ends; the job cannot go on without it"
    )


def test_going_on_workers_that_do_not_come_are_given_up_and_the_others_have_the_time_again(plan: Plan) -> None:
    run_ = Job(plan, faults=FaultsConf(on_worker_loss="continue", join_timeout=60.0)).join("aggregator-0", "trainer-0")
    run_.process("trainer-1", "started")
    run_.tick(60.0)
    assert run_.of(run.GiveUpWorker)[0].worker == "trainer-1"
    assert "not ready within faults.join_timeout" in run_.of(run.Warn)[0].text
    assert run_.supervisor.deadline() <= 60.0
    assert run_.tick(0.0) == [run.KillWorker("trainer-1")] or run.KillWorker("trainer-1") in run_.actions
    run_.process("trainer-1", "killed by SIGKILL")
    assert run_.supervisor.deadline() == 120.0


def test_a_root_that_does_not_come_fails_the_job_that_goes_on(plan: Plan) -> None:
    run_ = Job(plan, faults=FaultsConf(on_worker_loss="continue", join_timeout=60.0)).join("trainer-0", "trainer-1")
    run_.tick(60.0)
    assert run_.of(run.AbortJob)[0].reason.startswith("aggregator-0 was not ready within faults.join_timeout (60 s)")


def test_a_lost_worker_is_started_again_after_the_back_off_which_doubles(plan: Plan) -> None:
    run_ = restarting(plan, backoff=0.5).running()
    actions = run_.process("trainer-1", "killed by SIGKILL")
    assert run.VacateSeat("trainer-1", "trainer-1 is started anew") in actions
    assert "it is started again (restart 1 of 3)" in run_.of(run.Warn)[0].text
    assert run_.supervisor.deadline() == 0.5
    assert run_.tick(0.4) == []
    assert run_.tick(0.1) == [run.RestartWorker("trainer-1")]
    run_.join("trainer-1", pid=50)
    run_.process("trainer-1", "killed by SIGKILL", pid=50)
    assert run_.tick(0.9) == []
    assert run_.tick(0.1) == [run.RestartWorker("trainer-1")]
    assert run_.history("trainer-1") == [
        ("ready", None), ("starting", None), ("running", 1), ("restarting", 1), ("starting", None), ("restarting", None),
    ]  # fmt: skip


def test_a_restarted_worker_takes_part_under_its_new_process(plan: Plan) -> None:
    run_ = restarting(plan).running()
    run_.process("trainer-1", "exit 3")
    run_.tick(0.5)
    run_.join("trainer-1", pid=50)
    run_.state("trainer-1", "running")
    run_.state("trainer-1", "running", round=2)
    (record,) = [record for record in run_.supervisor.tasks() if record.worker == "trainer-1"]
    assert (record.state, record.round, record.pid, record.error) == ("running", 2, 50, None)
    run_.complete(*NAMES)
    assert run_.finish == run.Finish(status="completed", exit_status=0)


def test_restarts_come_to_an_end(plan: Plan) -> None:
    run_ = restarting(plan, max_restarts=1).running()
    run_.process("trainer-1", "exit 3")
    run_.tick(0.5)
    run_.join("trainer-1", pid=50)
    run_.process("trainer-1", "exit 3", pid=50)
    assert run_.of(run.AbortJob)[0].reason == (
        "trainer-1 ended with exit status 3 before it was back; it had been restarted once already (faults.max_restarts)"
    )


def test_each_worker_has_restarts_of_its_own(plan: Plan) -> None:
    run_ = restarting(plan, max_restarts=1).running()
    for name in NAMES:
        run_.process(name, "exit 3")
    assert set(run_.states.values()) == {"restarting"}
    assert run_.of(run.AbortJob) == []


def test_a_worker_that_still_runs_is_killed_before_it_is_started_again(plan: Plan) -> None:
    run_ = restarting(plan).running()
    run_.lost("trainer-1", "trainer-1 was silent for 3 s")
    run_.tick(1.0)
    run_.tick(0.0)
    assert run_.of(run.KillWorker) == [run.KillWorker("trainer-1")]
    assert run_.of(run.RestartWorker) == []
    run_.process("trainer-1", "killed by SIGKILL", after=0.2)
    run_.tick(0.5)
    assert run_.of(run.RestartWorker) == [run.RestartWorker("trainer-1")]


def test_a_worker_that_cannot_be_killed_is_replaced_in_the_end(plan: Plan) -> None:
    run_ = restarting(plan).running()
    run_.lost("trainer-1", "trainer-1 was silent for 3 s")
    run_.tick(1.0)
    run_.tick(0.0)
    run_.tick(5.0)
    assert "not known to have ended" in run_.of(run.Warn)[-1].text
    run_.tick(0.5)
    assert run_.of(run.RestartWorker) == [run.RestartWorker("trainer-1")]


def test_a_restarted_worker_that_does_not_come_back_is_lost_again(plan: Plan) -> None:
    run_ = restarting(plan, max_restarts=1).running()
    run_.process("trainer-1", "exit 3")
    run_.tick(0.5)
    run_.process("trainer-1", "started", pid=50)
    assert run_.supervisor.deadline() == 60.5
    run_.tick(60.0)
    assert "trainer-1 was not back within faults.join_timeout (60 s)" in run_.of(run.AbortJob)[0].reason


def test_what_the_old_process_still_says_is_left_out(plan: Plan) -> None:
    run_ = restarting(plan).running()
    run_.process("trainer-1", "exit 3")
    run_.state("trainer-1", "running", round=2)
    run_.state("trainer-1", "failed", error="late", secondary=True)
    run_(control.Registered(worker="trainer-1", pid=11, host="here", time=1.0))
    run_.tick(0.5)
    run_.process("trainer-1", "started", pid=50)
    run_(control.Registered(worker="trainer-1", pid=12, host="here", time=1.0))
    run_.lost("trainer-1")
    run_.process("trainer-1", "exit 3", pid=12)
    run_.tick(1.0)
    assert run_.states["trainer-1"] == "starting"
    assert run_.of(run.AbortJob) == []


def test_after_the_result_is_there_nobody_is_started_again(plan: Plan) -> None:
    run_ = restarting(plan).running()
    run_.complete("aggregator-0", "trainer-0")
    run_.process("trainer-1", "killed by SIGKILL")
    assert run_.of(run.RestartWorker) == []
    assert run_.states["trainer-1"] == "failed"
    assert run_.finish == run.Finish(status="completed", exit_status=0)


def test_a_worker_that_waits_to_be_started_again_is_not_when_the_result_is_there(plan: Plan) -> None:
    run_ = restarting(plan).running()
    run_.process("trainer-1", "killed by SIGKILL")
    run_.complete("aggregator-0", "trainer-0")
    run_.tick(0.5)
    assert run_.of(run.RestartWorker) == []
    assert run_.states["trainer-1"] == "failed"
    assert run_.finish == run.Finish(status="completed", exit_status=0)


def test_a_restart_before_the_first_round_begins_the_wait_for_it_anew(plan: Plan) -> None:
    run_ = restarting(plan).join("aggregator-0", "trainer-0")
    run_.process("trainer-1", "started")
    run_.process("trainer-1", "exit 1", after=50.0)
    run_.tick(0.5)
    assert run_.supervisor.deadline() == 110.0


def test_without_a_launcher_nothing_can_be_restarted(plan: Plan) -> None:
    run_ = restarting(plan).running()
    run_.process("trainer-1", "exit 3")
    run_.returned()
    assert run_.of(run.AbortJob)[0].reason == (
        "trainer-1 was lost: trainer-1 ended with exit status 3 in round 1; it cannot be restarted, because the launcher has ended"
    )


def test_a_worker_that_joins_by_itself_is_waited_for(plan: Plan) -> None:
    run_ = Job(plan, faults=FaultsConf(on_worker_loss="restart", join_timeout=60.0), users=("trainer-1",)).join(
        "aggregator-0", "trainer-0"
    )
    run_.join("trainer-1", processes=False)
    for name in NAMES:
        run_.state(name, "running", round=1)
    run_.lost("trainer-1")
    run_.tick(1.0)
    assert "its site may join again (restart 1 of 3)" in run_.of(run.Warn)[0].text
    run_(control.Registered(worker="trainer-1", pid=77, host="there", time=1.0))
    run_.state("trainer-1", "running")
    run_.state("trainer-1", "running", round=2)
    assert run_.of(run.RestartWorker) == run_.of(run.VacateSeat) == run_.of(run.KillWorker) == []
    assert run_.history("trainer-1")[-4:] == [("restarting", 1), ("starting", None), ("running", None), ("running", 2)]


def test_a_site_that_joins_again_before_the_loss_was_judged_is_in_at_once(plan: Plan) -> None:
    run_ = Job(plan, faults=FaultsConf(on_worker_loss="restart"), users=NAMES).running(processes=False)
    run_.lost("trainer-1", "its connection had broken, and another process took its place")
    run_(control.Registered(worker="trainer-1", pid=77, host="there", time=1.0))
    assert run_.states["trainer-1"] == "starting"
    run_.tick(1.0)
    assert run_.states["trainer-1"] == "starting"


def test_a_site_that_joins_again_is_too_late_where_the_job_goes_on_without_it(plan: Plan) -> None:
    run_ = Job(plan, faults=FaultsConf(on_worker_loss="continue"), users=NAMES).running(processes=False)
    run_.lost("trainer-1", "its connection had broken, and another process took its place")
    run_(control.Registered(worker="trainer-1", pid=77, host="there", time=1.0))
    assert run_.states["trainer-1"] == "failed"
    assert run_.of(run.GiveUpWorker)[0].worker == "trainer-1"


def test_a_process_that_is_gone_without_a_status_is_a_loss(plan: Plan) -> None:
    run_ = Job(plan).running(processes=False)
    run_.process("trainer-1", "gone")
    assert run_.of(run.AbortJob) == [run.AbortJob("trainer-1 has ended in round 1")]


def test_a_process_that_is_gone_after_it_had_completed_is_none(plan: Plan) -> None:
    run_ = Job(plan).running(processes=False)
    run_.state("trainer-1", "completed")
    run_.process("trainer-1", "gone")
    assert run_.of(run.Warn) == []
