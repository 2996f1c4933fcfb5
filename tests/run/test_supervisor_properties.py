"""Whatever happens in whatever order, a job ends once, and its records agree with how it ended."""

from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from flame_run.control import events as control
from flame_run.run import events as run
from flame_run.run.faults import FaultsConf
from flame_run.run.supervisor import Supervisor
from flame_run.topology.plan import Plan, Worker

NAMES = ("a-0", "b-0", "b-1")
PLAN = Plan(
    job_id="a" * 24,
    job_name="job",
    schema_name="schema",
    code={},
    workers=tuple(Worker(name=name, task_id=name, role=name[0], index=0, groups={}, realm="default") for name in NAMES),
    channels=(),
)
worker = st.sampled_from(NAMES)
time = st.just(0.0)
EVENTS = st.one_of(
    st.builds(control.Registered, worker=worker, pid=st.just(1), host=st.just("here"), time=time),
    st.builds(control.Ready, worker=worker, address=st.none(), time=time),
    st.builds(control.Started, time=time),
    st.builds(
        control.StateChanged,
        worker=worker,
        state=st.sampled_from(["running", "completed", "completed", "failed", "terminated"]),
        round=st.none() | st.integers(1, 3),
        error=st.none() | st.just("boom"),
        secondary=st.booleans(),
        time=time,
    ),
    st.builds(control.SessionLost, worker=worker, reason=st.just("broke"), time=time),
    st.builds(control.SessionClosed, worker=worker, time=time),
    st.builds(
        run.ProcessEvent,
        worker=worker,
        pid=st.just(1),
        what=st.sampled_from(["started", "exit 0", "exit 1", "killed by SIGKILL"]),
        time=time,
    ),
    st.builds(
        run.LaunchReturned, results=st.lists(st.tuples(worker, st.booleans(), st.just("x")), max_size=3).map(tuple), time=time
    ),
    st.builds(run.LaunchFailed, error=st.just("no launcher"), time=time),
    st.builds(run.StopRequested, signal=st.just("SIGINT"), time=time),
    st.builds(run.Tick, time=time),
)
STEPS = st.lists(st.tuples(EVENTS, st.floats(0, 20)), max_size=40)


@settings(max_examples=300, deadline=None)
@given(STEPS)
def test_any_sequence_of_events_ends_the_job_exactly_once_within_a_few_ticks(steps):
    supervisor = Supervisor(PLAN, faults=FaultsConf(join_timeout=50.0), max_run_time=500.0)
    now, actions = 0.0, supervisor.begin(0.0, 0.0)
    for event, gap in steps:
        now += gap
        actions += supervisor.handle(event, now)
    ticks = 0
    while not supervisor.over:
        ticks += 1
        assert ticks <= 6
        assert supervisor.deadline() < float("inf")
        now = max(now, supervisor.deadline())
        actions += supervisor.handle(run.Tick(time=0.0), now)
    check(supervisor, actions)


def check(supervisor, actions):
    finish = actions[-1]
    assert isinstance(finish, run.Finish)
    assert sum(isinstance(action, run.Finish) for action in actions) == 1
    assert sum(isinstance(action, run.AbortJob) for action in actions) == (finish.status != "completed")
    histories: dict[str, list[tuple[str, int | None]]] = {name: [] for name in NAMES}
    for action in actions:
        if isinstance(action, run.RecordTask):
            histories[action.record.worker].append((action.record.state, action.record.round))
    final = supervisor.outcome(1e6).workers
    for name, history in histories.items():
        assert history[0] == ("ready", None)
        assert history[-1][0] == final[name]
        assert all(before != after for before, after in pairwise(history))
        assert [state for state, _ in history if state in ("completed", "failed", "terminated")] == [final[name]]
    assert (finish.error is None) == (finish.status == "completed")
    if finish.status == "completed":
        assert set(final.values()) == {"completed"}
    assert finish.exit_status == {"completed": 0, "failed": 1}.get(finish.status, finish.exit_status)
