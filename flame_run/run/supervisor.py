"""The supervisor: follows every worker, finds the cause of a failure, ends the job. A pure state machine.

It does no I/O and has no clock: events say what happened, `now` (monotonic seconds) when, and the answers are actions
for the runner. After a verdict (completed, failed, terminated) the workers get time to end by themselves, then they
are killed, then the job is over in any case.

Causes. A worker that reports its own error, or whose process ends without having completed, is lost. A worker that
lost a peer, or whose session was lost, is in doubt: for `Graces.judge` seconds a clear failure of any worker goes
before it. What a loss means is the policy's to say (`Losses`). Workers that end because another one failed the job are
`terminated`.

A worker that has completed stays so, whatever its process does afterwards: that is a warning.
"""

from collections.abc import Collection, Mapping
from math import inf

from flame_run.control import events as control
from flame_run.run import events as run
from flame_run.run.faults import FaultsConf
from flame_run.run.join_wait import JoinWait
from flame_run.run.losses import Losses
from flame_run.run.records import TaskRecord
from flame_run.run.roster import Roster
from flame_run.run.summary import Outcome
from flame_run.run.task import Task
from flame_run.run.winding_up import Graces, WindingUp
from flame_run.run.wording import gone, holding_up, outlived
from flame_run.topology.plan import Plan


class Supervisor:
    """Follows the workers of a plan.

    Args:
        plan: the workers.
        faults: the fault policy.
        max_run_time: seconds that the job may take (`job.maxRunTime`); None: no bound.
        users: names of the workers that join by themselves; the launcher knows nothing of them.
        graces: waits at the end.
    """

    def __init__(
        self,
        plan: Plan,
        *,
        faults: FaultsConf,
        max_run_time: float | None = None,
        users: Collection[str] = (),
        graces: Graces | None = None,
    ) -> None:
        self._roster = Roster(plan, users)
        self._graces = graces or Graces()
        self._losses = Losses(plan, self._roster, faults, self._graces)
        self._ending = WindingUp(self._roster, self._graces)
        self._join_timeout = faults.join_timeout
        self._joining = JoinWait(self._roster, faults.join_timeout)
        self._max_run_time = inf if max_run_time is None else max_run_time
        self._launch_error: str | None = None
        self._begun = 0.0
        self._judge_at = inf

    @property
    def over(self) -> bool:
        """Whether `Finish` was given."""
        return self._ending.over

    def begin(self, now: float, time: float) -> list[run.Action]:
        """Start the clock of the job at `now` (monotonic) and `time` (since the epoch)."""
        self._begun = self._joining.begun = now
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
        self._check(event.time, now)
        self._ending.step(event.time, now)
        return self._take_actions()

    def deadline(self) -> float:
        """When a `Tick` is needed if nothing else happens, on the clock of `now`; infinity if never."""
        if self.over:
            return inf
        if self._ending.verdict is not None:
            return self._ending.deadline()
        return min(self._judge_at, self._joining.until, self._losses.deadline(), self._begun + self._max_run_time)

    def tasks(self) -> tuple[TaskRecord, ...]:
        """The tasks as they stand, in the order of the plan, each with the time of its last record."""
        return self._roster.records()

    def epochs(self) -> Mapping[str, tuple[int, int]]:
        """Worker -> local epochs done and of how many, for those that are in a round and report it."""
        return {task.name: task.epoch for task in self._roster if task.epoch is not None and not task.final}

    def outcome(self, now: float) -> Outcome:
        """How the job ended, for the summary; `now` is the end of the run."""
        verdict = self._ending.verdict or run.Finish(status="failed", exit_status=1, error="the job was given up")
        end = now if self._ending.decided is None else self._ending.decided
        entered, first = self._roster.entered, self._joining.first_round
        return Outcome(
            status=verdict.status,
            workers={task.name: task.state for task in self._roster},
            total_seconds=now - self._begun,
            startup_seconds=None if first is None else first - self._begun,
            training_seconds=None if first is None else end - first,
            rounds=entered if verdict.status == "completed" else max(0, entered - 1),
            error=verdict.error,
            results=self._roster.results,
        )

    # -- what workers, their processes and the launcher do

    def _control(self, task: Task, event: run.Event, now: float) -> None:
        match event:
            case control.SessionClosed() | control.SessionLost():
                self._session_over(task, event, now)
            case control.Registered():
                self._registered(task, event, now)
            case _ if task.lost:
                pass  # it is over, and has said so before
            case control.Ready():
                task.ready = True
            case control.StateChanged():
                self._state(task, event, now)
            case control.ProgressReported(epoch=epoch, epochs=epochs):
                task.epoch = (epoch, epochs)
            case control.MetricsReported():
                self._roster.record_metrics(event)
            case control.ResultReported(result=result):
                self._roster.keep_result(task, result)

    def _registered(self, task: Task, event: control.Registered, now: float) -> None:
        if task.process == "started" and task.pid != event.pid:
            return  # a process that has ended meanwhile
        if task.session in ("closed", "lost") and not task.lost:
            self._lose(task, f"{task.name} failed {task.when}", task.doubt, event.time, now)
        if task.lost and task.type == "user":
            task.begin_again()
            task.back_by = now + self._join_timeout
        if not task.lost:
            task.session, task.pid, task.host = "open", event.pid, event.host
            self._roster.starting(task, event.time)

    def _state(self, task: Task, event: control.StateChanged, now: float) -> None:
        if task.final:
            return
        match event.state:
            case "running":
                task.back_by = inf
                if event.round is not None and event.round != task.round:
                    task.epoch = None
                    self._joining.first_round = now if self._joining.first_round is None else self._joining.first_round
                self._roster.change(task, "running", event.time, round_=event.round)
            case "completed":
                self._roster.change(task, "completed", event.time, round_=event.round)
            case "failed" if not event.secondary:
                self._lose(task, f"{task.name} failed {task.when}", event.error or "no reason given", event.time, now)
            case _:
                task.blames_peer = True
                self._doubt(task, event.error or f"reported {event.state}", event.time, now)

    def _session_over(self, task: Task, event: control.SessionClosed | control.SessionLost, now: float) -> None:
        if task.session != "open":
            return  # of a process that has ended meanwhile
        lost = isinstance(event, control.SessionLost)
        task.session = "lost" if lost else "closed"
        why = (
            f"its session was lost: {event.reason}" if isinstance(event, control.SessionLost) else "it left before it had completed"
        )
        if task.state == "completed" and lost:
            self._roster.warn(f"{task.name} had completed, then {why}", task.name)
        elif not task.final and not task.lost and self._ending.verdict is None:
            self._doubt(task, why, event.time, now)
        if task.over:
            self._losses.gone(task, now)

    def _process(self, task: Task, event: run.ProcessEvent, now: float) -> None:
        if event.what == "started":
            task.process, task.pid = "started", event.pid
            self._roster.starting(task, event.time)
            return
        if task.pid is not None and task.pid != event.pid:
            return  # of a process that was replaced
        if (warning := holding_up(task, event.what, self._roster)) is not None:
            self._roster.warn(warning, task.name)
            return
        task.pid, task.process, task.ended = event.pid, event.what, True
        self._ended(task, event.what, event.time, now)
        self._losses.gone(task, now)

    def _ended(self, task: Task, what: str, time: float, now: float) -> None:
        if task.state == "completed":
            if (late := outlived(task, what)) is not None:
                self._roster.warn(late, task.name)
        elif self._ending.verdict is not None:
            self._roster.change(task, "terminated", time)
        elif not task.blames_peer:
            self._lose(task, gone(task, what, self._roster), None, time, now)

    def _launch_returned(self, event: run.LaunchReturned, now: float) -> None:
        self._losses.launcher_over = True
        # A worker with an error tells more than one that just returned early.
        for name, ok, error in sorted(event.results, key=lambda result: result[1]):
            if (task := self._roster.get(name)) and not task.ended:
                task.ended = True
                self._ended(task, "exit 0" if ok else f"failed ({error})", event.time, now)
        for task in sorted(self._roster.launched, key=lambda task: not task.lost):
            missed, task.ended = task.lost or (not task.final and task.doubt is None), True
            if self._ending.verdict is None and missed:
                what = "was lost" if task.lost else "was not started by the launcher"
                cause, task.lost = task.error if task.lost else None, False
                self._lose(task, f"{task.name} {what}", cause, event.time, now)
        self._judge_at = min(self._judge_at, now)

    def _launch_failed(self, event: run.LaunchFailed, now: float) -> None:
        self._losses.launcher_over = True
        self._launch_error = event.error
        lively = any(task.session == "open" for task in self._roster.launched)
        for task in self._roster.launched:
            task.ended = True
        # A launcher that fails because of one worker does not say which; its session tells in a moment.
        self._judge_at = min(self._judge_at, now + (self._graces.judge if lively else 0.0))

    # -- verdicts

    def _lose(self, task: Task, what: str, error: str | None, time: float, now: float) -> None:
        """A worker is lost, by its own fault or that of its machine."""
        if task.final or task.lost:
            return
        text = what if error is None else f"{what}: {error}"
        why_not = "" if self._ending.verdict is not None else self._losses.take(task, text, error or what, time, now)
        if why_not is None:
            self._joining.begun = now
        elif self._roster.change(task, "failed", time, error=error or what):
            self._end("failed", 1, text + why_not, time, now, task.name)

    def _doubt(self, task: Task, why: str, time: float, now: float) -> None:
        if self._ending.verdict is not None:
            self._roster.change(task, "terminated", time, error=why)
            return
        task.doubt = task.doubt or why
        self._judge_at = min(self._judge_at, now + self._graces.judge)

    def _judge(self, time: float, now: float) -> None:
        """Decide with what is known: no clear cause has come."""
        self._judge_at = inf
        launcher = "" if self._launch_error is None else f"the launcher failed: {self._launch_error}"
        for task in self._roster.doubtful:
            if self._ending.verdict is None:
                self._lose(task, f"{task.name} failed {task.when}", "; ".join(filter(None, [task.doubt, launcher])), time, now)
        if launcher and not self._roster.final:
            self._end("failed", 1, launcher, time, now)

    def _stop(self, event: run.StopRequested, now: float) -> None:
        if self._ending.verdict is not None:
            self._ending.hurry(now)
        self._end("terminated", 130, f"interrupted by {event.signal}", event.time, now)

    def _end(self, status: str, exit_status: int, error: str | None, time: float, now: float, *culprits: str) -> None:
        self._ending.decide(run.Finish(status=status, exit_status=exit_status, error=error, culprits=culprits), time, now)

    # -- time

    def _check(self, time: float, now: float) -> None:
        """What follows from the state of things, and from the time."""
        if self._ending.verdict is None and now >= self._judge_at:
            self._judge(time, now)
        if self._ending.verdict is None:
            for task in self._losses.due(time, now):
                self._lose(task, f"{task.name} was not back within {self._joining.named}", None, time, now)
        if self._ending.verdict is not None:
            return
        if self._roster.final and self._losses.result_is_there:
            self._end("completed", 0, None, time, now)
        elif self._roster.final:
            self._end("failed", 1, "no worker is left", time, now)
        elif now >= self._begun + self._max_run_time:
            where = f"in round {self._roster.entered}" if self._roster.entered else "before round 1"
            self._end("terminated", 1, f"the job reached job.maxRunTime ({self._max_run_time:g} s) {where}", time, now)
        elif now >= self._joining.until:
            self._join_overdue(time, now)

    def _join_overdue(self, time: float, now: float) -> None:
        stuck = self._joining.stuck
        if not stuck or not self._losses.tolerant:
            self._end("failed", 1, self._joining.overdue, time, now, *self._joining.unready[:3])
            return
        self._joining.begun = now
        for task in stuck:
            self._lose(task, f"{task.name} was not ready within {self._joining.named}", None, time, now)

    def _take_actions(self) -> list[run.Action]:
        actions, self._roster.actions = self._roster.actions, []
        return actions
