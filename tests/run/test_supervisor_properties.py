"""Whatever happens in whatever order, a job ends once, and its records agree with how it ended."""

from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from flame_run.control import events as control
from flame_run.run import events as run
from flame_run.run.faults import FaultsConf
from flame_run.run.supervisor import Supervisor
from flame_run.topology.plan import Channel, Plan, Worker

NAMES = ("a-0", "b-0", "b-1")
PLAN = Plan(
    job_id="a" * 24,
    job_name="job",
    schema_name="schema",
    code={},
    workers=tuple(Worker(name=name, task_id=name, role=name[0], index=0, groups={"c": "all"}, realm="default") for name in NAMES),
    channels=(
        Channel(
            name="c",
            backend="auto",
            pair=("b", "a"),
            func_tags={"b": ("fetch",), "a": ("distribute",)},
            groups={"all": {"a": ("a-0",), "b": ("b-0", "b-1")}},
        ),
    ),
)
worker = st.sampled_from(NAMES)
time = st.just(0.0)
EVENTS = st.one_of(
    st.builds(control.Registered, worker=worker, pid=st.integers(1, 2), host=st.just("here"), time=time),
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
        pid=st.integers(1, 2),
        what=st.sampled_from(["started", "exit 0", "exit 1", "killed by SIGKILL", "gone"]),
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


POLICIES = st.sampled_from(["fail", "continue", "restart"])


@settings(max_examples=500, deadline=None)
@given(STEPS, POLICIES, st.sampled_from([(), ("b-1",), NAMES]))
def test_any_sequence_of_events_ends_the_job_exactly_once_within_a_few_ticks(steps, policy, users):
    faults = FaultsConf(on_worker_loss=policy, join_timeout=50.0, max_restarts=2)
    supervisor = Supervisor(PLAN, faults=faults, max_run_time=500.0, users=users)
    now, actions = 0.0, supervisor.begin(0.0, 0.0)
    for event, gap in steps:
        now += gap
        actions += supervisor.handle(event, now)
    ticks = 0
    while not supervisor.over:
        ticks += 1
        assert ticks <= (6 if policy == "fail" else 40)
        assert supervisor.deadline() < float("inf")
        now = max(now, supervisor.deadline())
        actions += supervisor.handle(run.Tick(time=0.0), now)
    check(supervisor, actions, policy)


def check(supervisor, actions, policy):
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
        assert final["a-0"] == "completed"
        assert set(final.values()) <= ({"completed"} if policy == "fail" else {"completed", "failed"})
    restarts = [action.worker for action in actions if isinstance(action, run.RestartWorker)]
    assert all(restarts.count(name) <= (2 if policy == "restart" else 0) for name in NAMES)
    for name in NAMES:
        states = [state for state, _ in histories[name]]
        assert states.count("restarting") <= (2 if policy == "restart" else 0)
        assert "ready" not in states[1:]
    assert finish.exit_status == {"completed": 0, "failed": 1}.get(finish.status, finish.exit_status)
