"""The supervisor: follows every worker, finds the cause of a failure, ends the job. A pure state machine.

It does no I/O and has no clock: events say what happened, `now` (monotonic seconds) when, and the answers are actions
for the runner. After a verdict (completed, failed, terminated) the workers get time to end by themselves, then they
are killed, then the job is over in any case.

Causes. A worker that reports its own error, or whose process ends without having completed, failed. A worker that
lost a peer, or whose connection broke, is in doubt: for `Graces.judge` seconds a clear failure of any worker goes
before it. Workers that end because another one failed are `terminated`.

A worker that has completed stays so, whatever its process does afterwards: that is a warning.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf

from flame_run.control import events as control
from flame_run.run import events as run
from flame_run.run.faults import FaultsConf
from flame_run.run.records import MetricRecord, TaskRecord
from flame_run.run.roster import Roster
from flame_run.run.summary import Outcome
from flame_run.run.task import Task
from flame_run.run.wording import ending, listed, missing
from flame_run.topology.plan import Plan


@dataclass(frozen=True, slots=True, kw_only=True)
class Graces:
    """How long the supervisor waits at the end, seconds."""

    judge: float = 1.5
    """For the clear cause of a failure."""
    abort: float = 3.0
    """For workers to end after they were told to."""
    exit: float = 10.0
    """For the processes of workers that completed to end."""
    kill: float = 5.0
    """For killed processes to be gone."""


class Supervisor:
    """Follows the workers of a plan.

    Args:
        plan: the workers.
        faults: the fault policy.
        max_run_time: seconds that the job may take (`job.maxRunTime`); None: no bound.
        type: `system` for workers started by the runner, `user` for others.
        graces: waits at the end.
    """

    def __init__(
        self,
        plan: Plan,
        *,
        faults: FaultsConf,
        max_run_time: float | None = None,
        type: str = "system",
        graces: Graces | None = None,
    ) -> None:
        self._roster = Roster(plan, type)
        self._join_timeout = faults.join_timeout
        self._max_run_time = inf if max_run_time is None else max_run_time
        self._graces = graces or Graces()
        self._verdict: run.Finish | None = None
        self._launch_error: str | None = None
        self._begun = 0.0
        self._first_round: float | None = None
        self._decided: float | None = None
        self._judge_at = self._kill_at = self._finish_at = inf
        self.over = False
        """Whether `Finish` was given."""

    def begin(self, now: float, time: float) -> list[run.Action]:
        """Start the clock of the job at `now` (monotonic) and `time` (since the epoch)."""
        self._begun = now
        self._roster.begin(time)
        return self._take_actions()

    def handle(self, event: run.Event, now: float) -> list[run.Action]:
        """Take `event`, which happened at `now`; returns what is to be done, in order."""
        if self.over:
            return []
        task = self._roster.get(getattr(event, "worker", ""))
        match event:
            case run.StopRequested():
                self._stop(event, now)
            case run.LaunchFailed():
                self._launch_failed(event, now)
            case run.LaunchReturned():
                self._launch_returned(event, now)
            case run.ProcessEvent() if task:
                self._process(task, event, now)
            case _ if task:
                self._control(task, event, now)
            case _:
                pass
        if self._verdict is None:
            self._check_deadlines(event.time, now)
        if self._verdict is not None:
            self._wind_up(self._verdict, event.time, now)
        return self._take_actions()

    def deadline(self) -> float:
        """When a `Tick` is needed if nothing else happens, on the clock of `now`; infinity if never."""
        if self.over:
            return inf
        if self._verdict is not None:
            return min(self._kill_at, self._finish_at)
        return min(self._judge_at, self._join_at, self._begun + self._max_run_time)

    def tasks(self) -> tuple[TaskRecord, ...]:
        """The tasks as they stand, in the order of the plan, each with the time of its last record."""
        return self._roster.records()

    def epochs(self) -> Mapping[str, tuple[int, int]]:
        """Worker -> local epochs done and of how many, for those that are in a round and report it."""
        return {task.name: task.epoch for task in self._roster if task.epoch is not None and not task.final}

    def outcome(self, now: float) -> Outcome:
        """How the job ended, for the summary; `now` is the end of the run."""
        verdict = self._verdict or run.Finish(status="failed", exit_status=1, error="the job was given up")
        end = now if self._decided is None else self._decided
        entered = self._roster.entered
        return Outcome(
            status=verdict.status,
            workers={task.name: task.state for task in self._roster},
            total_seconds=now - self._begun,
            startup_seconds=None if self._first_round is None else self._first_round - self._begun,
            training_seconds=None if self._first_round is None else end - self._first_round,
            rounds=entered if verdict.status == "completed" else max(0, entered - 1),
            error=verdict.error,
            results=self._roster.results,
        )

    # -- what workers, their processes and the launcher do

    def _control(self, task: Task, event: run.Event, now: float) -> None:
        match event:
            case control.Registered(pid=pid, host=host):
                task.session, task.pid, task.host = "open", pid, host
                self._roster.starting(task, event.time)
            case control.Ready():
                task.ready = True
            case control.StateChanged():
                self._state(task, event, now)
            case control.ProgressReported(epoch=epoch, epochs=epochs):
                task.epoch = (epoch, epochs)
            case control.MetricsReported():
                self._metrics(event)
            case control.ResultReported(result=result):
                self._roster.keep_result(task, result)
            case control.SessionClosed() | control.SessionLost():
                self._session_over(task, event, now)

    def _metrics(self, event: control.MetricsReported) -> None:
        records = (
            MetricRecord(round=event.round, worker=event.worker, name=name, value=value, time=event.time)
            for name, value in event.values.items()
        )
        self._roster.actions.append(run.RecordMetrics(tuple(records)))

    def _state(self, task: Task, event: control.StateChanged, now: float) -> None:
        if task.final:
            return
        match event.state:
            case "running":
                if event.round is not None and event.round != task.round:
                    task.epoch = None
                    self._first_round = now if self._first_round is None else self._first_round
                self._roster.change(task, "running", event.time, round_=event.round)
            case "completed":
                self._roster.change(task, "completed", event.time, round_=event.round)
                if self._verdict is None and self._roster.completed:
                    self._decide(run.Finish(status="completed", exit_status=0), event.time, now)
            case "failed" if not event.secondary:
                self._fail(task, f"{task.name} failed {task.when}", event.error or "no reason given", event.time, now)
            case _:
                task.blames_peer = True
                self._doubt(task, event.error or f"reported {event.state}", event.time, now)

    def _session_over(self, task: Task, event: control.SessionClosed | control.SessionLost, now: float) -> None:
        lost = isinstance(event, control.SessionLost)
        task.session = "lost" if lost else "closed"
        why = (
            f"its session was lost: {event.reason}" if isinstance(event, control.SessionLost) else "it left before it had completed"
        )
        if task.state == "completed" and lost:
            self._warn(f"{task.name} had completed, then {why}")
        elif not task.final and self._verdict is None:
            self._doubt(task, why, event.time, now)

    def _process(self, task: Task, event: run.ProcessEvent, now: float) -> None:
        task.pid = event.pid
        if event.what == "started":
            task.process = "started"
            self._roster.starting(task, event.time)
            return
        task.process, task.ended = event.what, True
        self._ended(task, event.what, event.time, now)

    def _ended(self, task: Task, what: str, time: float, now: float) -> None:
        if task.state == "completed":
            if what != "exit 0":
                self._warn(f"{task.name} had completed, then its process {ending(what)}")
        elif self._verdict is not None:
            self._roster.change(task, "terminated", time)
        elif not task.blames_peer:
            self._fail(task, f"{task.name} {ending(what)} {task.when}", None, time, now)

    def _launch_returned(self, event: run.LaunchReturned, now: float) -> None:
        # A worker with an error tells more than one that just returned early.
        for name, ok, error in sorted(event.results, key=lambda result: result[1]):
            if (task := self._roster.get(name)) and not task.ended:
                task.ended = True
                self._ended(task, "exit 0" if ok else f"failed ({error})", event.time, now)
        for task in self._roster:
            task.ended = True
            if self._verdict is None and not task.final and task.doubt is None:
                self._fail(task, f"{task.name} was not started by the launcher", None, event.time, now)
        self._judge_at = min(self._judge_at, now)

    def _launch_failed(self, event: run.LaunchFailed, now: float) -> None:
        self._launch_error = event.error
        lively = any(task.session == "open" for task in self._roster)
        for task in self._roster:
            task.ended = True
        # A launcher that fails because of one worker does not say which; its session tells in a moment.
        self._judge_at = min(self._judge_at, now + (self._graces.judge if lively else 0.0))

    # -- verdicts

    def _fail(self, task: Task, what: str, error: str | None, time: float, now: float) -> None:
        text = what if error is None else f"{what}: {error}"
        if self._roster.change(task, "failed", time, error=error or what):
            self._decide(run.Finish(status="failed", exit_status=1, error=text, culprits=(task.name,)), time, now)

    def _doubt(self, task: Task, why: str, time: float, now: float) -> None:
        if self._verdict is not None:
            self._roster.change(task, "terminated", time, error=why)
            return
        task.doubt = task.doubt or why
        self._judge_at = min(self._judge_at, now + self._graces.judge)

    def _judge(self, time: float, now: float) -> None:
        """Decide with what is known: no clear cause has come."""
        self._judge_at = inf
        launcher = "" if self._launch_error is None else f"the launcher failed: {self._launch_error}"
        for task in self._roster.doubtful[:1]:
            self._fail(task, f"{task.name} failed {task.when}", "; ".join(filter(None, [task.doubt, launcher])), time, now)
        if self._verdict is None and launcher:
            self._decide(run.Finish(status="failed", exit_status=1, error=launcher), time, now)

    def _stop(self, event: run.StopRequested, now: float) -> None:
        if self._verdict is not None:
            self._kill_at = min(self._kill_at, now)
        verdict = run.Finish(status="terminated", exit_status=130, error=f"interrupted by {event.signal}")
        self._decide(verdict, event.time, now)

    def _decide(self, verdict: run.Finish, time: float, now: float) -> None:
        if self._verdict is not None:
            return
        self._verdict, self._decided = verdict, now
        if verdict.status == "completed":
            self._kill_at = now + self._graces.exit
            return
        self._kill_at = now + self._graces.abort
        self._roster.actions.append(run.AbortJob(verdict.error or verdict.status))
        for task in self._roster.doubtful:
            self._roster.change(task, "terminated", time, error=task.doubt)

    # -- time

    @property
    def _join_at(self) -> float:
        begun = self._first_round is not None or any(task.state == "completed" for task in self._roster)
        return inf if begun else self._begun + self._join_timeout

    def _check_deadlines(self, time: float, now: float) -> None:
        if now >= self._judge_at:
            self._judge(time, now)
        elif now >= self._begun + self._max_run_time:
            where = f"in round {self._roster.entered}" if self._roster.entered else "before round 1"
            text = f"the job reached job.maxRunTime ({self._max_run_time:g} s) {where}"
            self._decide(run.Finish(status="terminated", exit_status=1, error=text), time, now)
        elif now >= self._join_at:
            tasks = tuple(self._roster)
            text = f"no round began within faults.join_timeout ({self._join_timeout:g} s): {missing(tasks)}"
            culprits = tuple(task.name for task in tasks if not task.ready)[:3]
            self._decide(run.Finish(status="failed", exit_status=1, error=text, culprits=culprits), time, now)

    def _wind_up(self, verdict: run.Finish, time: float, now: float) -> None:
        """After the verdict: wait, then kill, then finish."""
        lasting = self._roster.lasting
        if lasting and now >= self._kill_at:
            if verdict.status == "completed":
                self._warn(f"the job has completed; killed, because they did not end: {listed(lasting)}")
            self._roster.actions.append(run.KillWorkers(lasting, verdict.error or "the job has completed"))
            self._kill_at, self._finish_at = inf, now + self._graces.kill
        if not lasting or now >= self._finish_at:
            if lasting:
                self._warn(f"not known to have ended {self._graces.kill:g} s after they were killed: {listed(lasting)}")
            for task in self._roster:
                self._roster.change(task, "terminated", time)
            self._roster.actions.append(verdict)
            self.over = True

    def _take_actions(self) -> list[run.Action]:
        actions, self._roster.actions = self._roster.actions, []
        return actions

    def _warn(self, text: str) -> None:
        self._roster.actions.append(run.Warn(text))
