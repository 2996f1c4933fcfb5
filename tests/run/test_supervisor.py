"""Every transition of the supervisor, without processes and without a clock."""

from math import inf

import pytest

from flame_run.control import events as control
from flame_run.run import events as run
from tests.run.flow import NAMES, Job


@pytest.fixture
def job(plan):
    return lambda **options: Job(plan, **options)


def test_a_job_that_goes_well_records_every_state_and_round_and_completes(job):
    run_ = job().join()
    for name in NAMES:
        run_.state(name, "running")
    for round_ in (1, 2):
        for name in NAMES:
            run_.state(name, "running", round=round_)
    for name in NAMES:
        run_.state(name, "completed")
    assert run_.finish is None
    run_.leave()
    assert run_.finish == run.Finish(status="completed", exit_status=0)
    expected = [("ready", None), ("starting", None), ("running", None), ("running", 1), ("running", 2), ("completed", 2)]
    assert [run_.history(name) for name in NAMES] == [expected] * 3
    assert run_.of(run.AbortJob) == run_.of(run.KillWorkers) == run_.of(run.Warn) == []


def test_records_carry_pid_and_host_as_soon_as_they_are_known(job):
    run_ = job().running()
    records = [action.record for action in run_.of(run.RecordTask) if action.record.worker == "trainer-0"]
    assert [(record.state, record.pid, record.host) for record in records] == [
        ("ready", None, None), ("starting", 11, None), ("running", 11, "here")
    ]  # fmt: skip


def test_a_start_seen_late_by_the_launcher_does_not_set_a_worker_back(job):
    run_ = job().running(processes=False)
    run_.process("trainer-0", "started")
    assert run_.states["trainer-0"] == "running"


def test_a_round_reported_twice_is_recorded_once(job):
    run_ = job().running()
    assert run_.state("trainer-0", "running", round=1) == []


def test_a_worker_that_fails_ends_the_job_at_once_and_is_named(job):
    run_ = job().running(round_=2)
    actions = run_.state("trainer-1", "failed", error="ValueError: boom")
    assert [type(action).__name__ for action in actions] == ["RecordTask", "AbortJob"]
    run_.leave()
    assert run_.finish == run.Finish(
        status="failed", exit_status=1, error="trainer-1 failed in round 2: ValueError: boom", culprits=("trainer-1",)
    )
    assert run_.states == {"aggregator-0": "terminated", "trainer-0": "terminated", "trainer-1": "failed"}


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("exit 3", "trainer-0 ended with exit status 3 in round 1"),
        ("killed by SIGKILL", "trainer-0 was killed by SIGKILL (out of memory?) in round 1"),
        ("killed by SIGSEGV", "trainer-0 was killed by SIGSEGV in round 1"),
        ("exit 0", "trainer-0 ended without finishing (exit status 0) in round 1"),
    ],
)
def test_a_process_that_ends_without_having_completed_is_a_failure_at_once(job, what, words):
    run_ = job().running()
    run_.process("trainer-0", what)
    assert run_.of(run.AbortJob) == [run.AbortJob(words)]
    assert run_.states["trainer-0"] == "failed"


@pytest.mark.parametrize(("joined", "when"), [(False, "before it registered"), (True, "before round 1")])
def test_a_process_that_ends_early_is_told_apart(job, joined, when):
    run_ = job()
    run_.process("trainer-0", "started")
    if joined:
        run_.join("trainer-0")
    run_.process("trainer-0", "exit 1")
    assert run_.of(run.AbortJob) == [run.AbortJob(f"trainer-0 ended with exit status 1 {when}")]


def test_a_worker_that_lost_its_peer_waits_for_the_cause(job):
    run_ = job().running()
    assert run_.state("aggregator-0", "failed", error="trainer-1 is gone", secondary=True) == []
    assert run_.process("aggregator-0", "exit 1") == []
    run_.process("trainer-1", "killed by SIGKILL", after=0.5)
    run_.leave()
    assert run_.finish.error == "trainer-1 was killed by SIGKILL (out of memory?) in round 1"
    assert run_.states == {"aggregator-0": "terminated", "trainer-0": "terminated", "trainer-1": "failed"}


def test_a_secondary_failure_after_the_cause_changes_nothing(job):
    run_ = job().running()
    run_.process("trainer-1", "killed by SIGKILL")
    run_.state("aggregator-0", "failed", error="trainer-1 is gone", secondary=True)
    assert run_.states["aggregator-0"] == "terminated"
    assert len(run_.of(run.AbortJob)) == 1


def test_secondary_failures_alone_count_after_a_while_the_first_one_first(job):
    run_ = job().running()
    run_.state("trainer-0", "failed", error="aggregator-0 is gone", secondary=True)
    run_.state("aggregator-0", "failed", error="trainer-0 is gone", secondary=True, after=0.4)
    assert run_.supervisor.deadline() == 1.0
    run_.tick(0.6)
    assert run_.of(run.AbortJob)[0].reason in (
        "trainer-0 failed in round 1: aggregator-0 is gone",
        "aggregator-0 failed in round 1: trainer-0 is gone",
    )
    assert sorted(run_.states.values()) == ["failed", "running", "terminated"]


def test_a_lost_session_waits_for_the_end_of_the_process_to_explain_it(job):
    run_ = job().running()
    assert run_.lost("trainer-0") == []
    run_.process("trainer-0", "killed by SIGKILL", after=0.1)
    assert run_.of(run.AbortJob)[0].reason.startswith("trainer-0 was killed by SIGKILL")


def test_a_lost_session_goes_before_workers_that_blame_a_peer(job):
    run_ = job().running()
    run_.state("aggregator-0", "failed", error="trainer-1 is gone", secondary=True)
    run_.lost("trainer-1", "trainer-1 was silent for 30 s", after=0.5)
    run_.tick(0.5)
    run_.tick(3.0)
    assert run_.of(run.AbortJob)[0].reason == "trainer-1 failed in round 1: its session was lost: trainer-1 was silent for 30 s"
    assert run_.of(run.KillWorkers)[0].workers == NAMES


def test_a_worker_that_leaves_without_having_completed_has_failed(job):
    run_ = job().running(processes=False)
    run_(control.SessionClosed(worker="trainer-0", time=1.0))
    run_.tick(1.0)
    assert run_.of(run.AbortJob) == [run.AbortJob("trainer-0 failed in round 1: it left before it had completed")]


def test_workers_get_time_to_end_then_they_are_killed_then_the_job_is_over(job):
    run_ = job().running()
    run_.state("trainer-0", "failed", error="boom")
    run_.leave("trainer-0", "trainer-1")
    assert run_.supervisor.deadline() == 3.0
    assert run_.tick(2.9) == []
    assert run_.tick(0.1) == [run.KillWorkers(("aggregator-0",), "trainer-0 failed in round 1: boom")]
    assert run_.tick(4.9) == []
    actions = run_.tick(0.1)
    assert [type(action).__name__ for action in actions] == ["Warn", "RecordTask", "Finish"]
    assert "aggregator-0" in actions[0].text
    assert run_.states["aggregator-0"] == "terminated"


def test_a_completed_worker_whose_process_stays_is_killed_and_the_job_is_still_completed(job):
    run_ = job().running()
    for name in NAMES:
        run_.state(name, "completed")
    run_.leave("aggregator-0", "trainer-0")
    run_.tick(10.0)
    assert run_.of(run.KillWorkers)[0].workers == ("trainer-1",)
    run_.process("trainer-1", "killed by SIGKILL")
    assert run_.finish.status == "completed"
    assert "trainer-1" in run_.of(run.Warn)[0].text


@pytest.mark.parametrize("how", ["process", "session"])
def test_a_completed_worker_that_ends_badly_is_a_warning(job, how):
    run_ = job().running()
    for name in NAMES:
        run_.state(name, "completed")
    if how == "process":
        run_.process("trainer-0", "killed by SIGSEGV")
    else:
        run_.lost("trainer-0")
    run_.leave()
    assert run_.finish.status == "completed"
    assert "trainer-0 had completed, then" in run_.of(run.Warn)[0].text


def test_a_state_after_the_final_one_is_left_out(job):
    run_ = job().running()
    run_.state("trainer-0", "completed")
    assert run_.state("trainer-0", "failed", error="too late") == []
    assert run_.states["trainer-0"] == "completed"


def test_two_workers_that_fail_by_themselves_are_both_failed_and_the_first_is_named(job):
    run_ = job().running()
    run_.state("trainer-0", "failed", error="first")
    run_.state("trainer-1", "failed", error="second")
    run_.leave()
    assert run_.finish.error == "trainer-0 failed in round 1: first"
    assert run_.states == {"aggregator-0": "terminated", "trainer-0": "failed", "trainer-1": "failed"}


def test_a_request_to_stop_ends_the_job_as_interrupted(job):
    run_ = job().running()
    run_(run.StopRequested(signal="SIGTERM", time=1001.0))
    assert run_.of(run.AbortJob) == [run.AbortJob("interrupted by SIGTERM")]
    run_.state("trainer-0", "terminated", error="interrupted")
    run_.leave()
    assert run_.finish == run.Finish(status="terminated", exit_status=130, error="interrupted by SIGTERM")
    assert set(run_.states.values()) == {"terminated"}


def test_a_second_request_to_stop_kills_at_once(job):
    run_ = job().running()
    run_(run.StopRequested(signal="SIGINT", time=1001.0))
    actions = run_(run.StopRequested(signal="SIGINT", time=1001.0), after=0.1)
    assert actions == [run.KillWorkers(NAMES, "interrupted by SIGINT")]


def test_a_job_that_takes_too_long_is_terminated(job):
    run_ = job(max_run_time=100.0).running(round_=7)
    assert run_.supervisor.deadline() == 100.0
    run_.tick(99.0)
    assert run_.of(run.AbortJob) == []
    run_.tick(1.0)
    run_.leave()
    assert run_.finish == run.Finish(status="terminated", exit_status=1, error="the job reached job.maxRunTime (100 s) in round 7")


def test_workers_that_do_not_come_in_time_are_named_by_how_far_they_came(job):
    run_ = job()
    run_.process("trainer-0", "started")
    run_.process("trainer-1", "started")
    run_(control.Registered(worker="trainer-1", pid=12, host="here", time=1.0))
    assert run_.supervisor.deadline() == 60.0
    run_.tick(60.0)
    assert run_.of(run.AbortJob)[0].reason == (
        "no round began within faults.join_timeout (60 s): "
        "never started: aggregator-0; started but not registered: trainer-0; registered but not ready: trainer-1"
    )
    assert run_.supervisor.deadline() == 63.0


def test_a_launcher_that_tells_nothing_of_processes_is_worded_with_care(job):
    run_ = job().join("trainer-0", processes=False)
    run_.tick(60.0)
    assert run_.of(run.AbortJob)[0].reason.endswith("not registered: aggregator-0, trainer-1")


def test_workers_that_are_still_preparing_are_named(job):
    run_ = job().join()
    run_.state("aggregator-0", "running")
    run_.tick(60.0)
    assert run_.of(run.AbortJob)[0].reason.endswith("still preparing, building model and data: trainer-0, trainer-1")


def test_workers_that_are_ready_but_never_enter_a_round_are_said_to(job):
    run_ = job().join()
    for worker in ("aggregator-0", "trainer-0", "trainer-1"):
        run_.state(worker, "running")
    run_.tick(60.0)
    assert run_.of(run.AbortJob)[0].reason.endswith("all workers are ready, but none has entered round 1")


def test_the_first_round_ends_the_wait_for_it(job):
    run_ = job().join()
    run_.state("aggregator-0", "running", round=1)
    assert run_.supervisor.deadline() == inf
    assert run_.tick(1000.0) == []


def test_a_launcher_that_fails_before_any_worker_came_is_the_cause(job):
    run_ = job()
    run_(run.LaunchFailed(error="sbatch: not found", time=1.0))
    assert run_.finish == run.Finish(status="failed", exit_status=1, error="the launcher failed: sbatch: not found")


def test_a_launcher_that_fails_because_of_a_worker_names_it_by_its_lost_session(job):
    run_ = job().running(processes=False)
    assert run_(run.LaunchFailed(error="a process was terminated", time=1.0)) == []
    run_.lost("trainer-0")
    run_.tick(1.0)
    assert run_.finish.error == (
        "trainer-0 failed in round 1: its session was lost: the connection broke; the launcher failed: a process was terminated"
    )


def test_of_the_workers_that_the_launcher_returns_one_with_an_error_is_named_first(job):
    run_ = job().running(processes=False)
    run_.returned(("aggregator-0", True, ""), ("trainer-0", False, "KeyError: x"), ("trainer-1", True, ""))
    assert run_.finish.error == "trainer-0 failed (KeyError: x) in round 1"


def test_a_launcher_that_starts_too_few_is_told_at_once(job):
    run_ = job()
    run_.returned()
    assert run_.finish.error == "aggregator-0 was not started by the launcher"


def test_what_workers_said_before_the_launcher_returned_stands(job):
    run_ = job().running(processes=False)
    run_.state("trainer-1", "failed", error="boom")
    run_.returned(("aggregator-0", False, "stopped"), ("trainer-0", False, "stopped"), ("trainer-1", False, "boom"))
    assert run_.finish.error == "trainer-1 failed in round 1: boom"
    assert run_.states["trainer-0"] == "terminated"


def test_only_secondary_failures_when_the_launcher_returns_are_judged_at_once(job):
    run_ = job().running(processes=False)
    for name in NAMES:
        run_.state(name, "failed", error="a peer is gone", secondary=True)
    run_.returned(*((name, False, "x") for name in NAMES))
    assert run_.finish.error == "aggregator-0 failed in round 1: a peer is gone"


def test_metrics_become_records_in_the_order_of_the_report(job):
    run_ = job().running()
    run_(control.MetricsReported(worker="trainer-0", round=1, values={"loss": 0.5, "accuracy": 0.9}, time=1001.5))
    (action,) = run_.of(run.RecordMetrics)
    assert [(record.name, record.value, record.time) for record in action.records] == [
        ("loss", 0.5, 1001.5),
        ("accuracy", 0.9, 1001.5),
    ]


def test_local_epochs_are_known_until_the_next_round(job):
    run_ = job().running()
    run_(control.ProgressReported(worker="trainer-0", epoch=2, epochs=5, time=1.0))
    assert run_.supervisor.epochs() == {"trainer-0": (2, 5)}
    run_.state("trainer-0", "running", round=2)
    assert run_.supervisor.epochs() == {}


def test_the_outcome_tells_times_rounds_and_the_latest_result_of_roots_alone(job):
    run_ = job().join()
    for name in NAMES:
        run_.state(name, "running", round=1, after=1.0)
    for name, rounds in (("trainer-1", 1), ("aggregator-0", 1), ("aggregator-0", 2)):
        run_(control.ResultReported(worker=name, result={"rounds": rounds}, time=1.0))
    for name in NAMES:
        run_.state(name, "completed", after=2.0)
    run_.leave()
    outcome = run_.supervisor.outcome(20.0)
    assert (outcome.status, outcome.rounds, outcome.error) == ("completed", 1, None)
    assert (outcome.total_seconds, outcome.startup_seconds, outcome.training_seconds) == (20.0, 1.0, 8.0)
    assert dict(outcome.results) == {"aggregator-0": {"rounds": 2}}
    assert "trainer-1 reported a result, though it is no root" in [action.text for action in run_.of(run.Warn)]


def test_a_failed_job_has_finished_the_rounds_before_the_one_it_failed_in(job):
    run_ = job().running(round_=3)
    run_.state("trainer-0", "failed", error="boom")
    assert run_.supervisor.outcome(5.0).rounds == 2


def test_events_of_unknown_workers_and_after_the_end_do_nothing(job):
    run_ = job()
    assert run_(control.Ready(worker="stranger-0", address=None, time=1.0)) == []
    run_.returned()
    assert run_.supervisor.over
    assert run_.supervisor.deadline() == inf
    assert run_.state("trainer-0", "running", round=1) == []


def test_workers_that_join_by_themselves_are_of_type_user(job):
    types = {record.worker: record.type for record in job(users=["trainer-1"]).supervisor.tasks()}
    assert types == {"aggregator-0": "system", "trainer-0": "system", "trainer-1": "user"}
