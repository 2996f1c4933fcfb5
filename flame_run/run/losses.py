"""What becomes of a lost worker: the job fails, goes on without it, or it is started again (`faults.on_worker_loss`).

Part of the supervisor's state machine: no I/O, no clock.
"""

from collections.abc import Sequence
from math import inf

from flame_run.run import events as run
from flame_run.run.faults import FaultsConf
from flame_run.run.roster import Roster
from flame_run.run.task import Task
from flame_run.run.winding_up import Graces
from flame_run.run.wording import times
from flame_run.topology.plan import Plan
from roles.tags import COORDINATE_WITH


class Losses:
    """Decides on each loss and sees restarts through.

    A lost worker of which something still runs gets `Graces.abort` seconds to end, a frozen one none; then it is killed.
    It is started again once it is gone, after the back-off, which doubles with each restart of this worker. A worker
    that joins by itself is waited for instead. Either has to be prepared within `join_timeout`, else it is lost again.
    """

    def __init__(self, plan: Plan, roster: Roster, faults: FaultsConf, graces: Graces) -> None:
        self._roster = roster
        self._faults = faults
        self._graces = graces
        self._lines = [(root, *plan.heirs.get(root, ())) for root in plan.roots]
        """Each root with those who take its place, one after the other."""
        binding = {
            role
            for channel in plan.channels
            for role, tags in channel.func_tags.items()
            if any(tag.startswith(COORDINATE_WITH) for tag in tags)
        }
        self._coordinators = {worker.name for worker in plan.workers if worker.role in binding}
        self.launcher_over = False
        """No worker of the launcher's can be started any more."""

    @property
    def tolerant(self) -> bool:
        """Whether a loss need not end the job."""
        return self._faults.on_worker_loss != "fail"

    @property
    def result_is_there(self) -> bool:
        """Whether every root that is left has completed, one at least."""
        acting = [left[0] for line in self._lines if (left := self._left(line))]
        return bool(acting) and all(task.state == "completed" for task in acting)

    def _left(self, line: Sequence[str]) -> list[Task]:
        """Those of a line that have not failed."""
        tasks = [task for name in line if (task := self._roster.get(name)) is not None]
        return [task for task in tasks if task.state != "failed"]

    def take(self, task: Task, what: str, error: str, time: float, now: float) -> str | None:
        """Handle the loss of a worker that was not lost already.

        Args:
            task: the worker.
            what: how it was lost, a sentence with its name.
            error: the error of its record.
            time: seconds since the epoch.
            now: the monotonic time.

        Returns:
            None if the job goes on, else why not: an addition to `what`, perhaps empty.
        """
        policy = self._faults.on_worker_loss
        if policy == "fail":
            return ""
        if policy == "restart" and not self.result_is_there:
            if task.restarts >= self._faults.max_restarts:
                return f"; it had been restarted {times(task.restarts)} already (faults.max_restarts)"
            if self.launcher_over and task.type == "system":
                return "; it cannot be restarted, because the launcher has ended"
            self._restart(task, what, error, time, now)
            return None
        if self._essential(task):
            return "; the job cannot go on without it"
        self._go_on_without(task, what, error, time, now)
        return None

    def gone(self, task: Task, now: float) -> None:
        """Nothing runs any more of a worker that may be lost."""
        task.kill_at = inf
        if task.state == "restarting" and task.lost and task.restart_at == inf:
            if task.session not in ("closed", "lost"):
                self._roster.actions.append(run.VacateSeat(task.name, f"{task.name} is started anew"))
            task.restart_at = now + self._faults.backoff * 2 ** (task.restarts - 1)

    def deadline(self) -> float:
        """When the next step is due; infinity if there is none."""
        return min((min(task.kill_at, task.restart_at, task.back_by) for task in self._roster), default=inf)

    def due(self, time: float, now: float) -> list[Task]:
        """Take the steps that are due at `now`; returns the workers that are not back in time."""
        late = []
        for task in self._roster:
            if now >= task.kill_at:
                self._kill(task, now)
            if now >= task.restart_at and self.result_is_there:
                task.restart_at = inf
                self._roster.change(task, "failed", time, error=task.error)
            elif now >= task.restart_at:
                self._start_again(task, now)
            if now >= task.back_by:
                task.back_by = inf
                late.append(task)
        return late

    def _essential(self, task: Task) -> bool:
        if self.result_is_there:
            return False
        others = [other for line in self._lines for other in self._left(line) if other is not task]
        return task.name in self._coordinators or (any(task.name in line for line in self._lines) and not others)

    def _go_on_without(self, task: Task, what: str, error: str, time: float, now: float) -> None:
        self._roster.change(task, "failed", time, error=error)
        self._roster.warn(f"{what}; the job goes on without it", task.name)
        self._roster.actions.append(run.GiveUpWorker(task.name, what))
        self._end(task, now)

    def _restart(self, task: Task, what: str, error: str, time: float, now: float) -> None:
        task.restarts += 1
        task.lost, task.doubt, task.back_by = True, None, inf
        self._roster.change(task, "restarting", time, error=error)
        how = "it is started again" if task.type == "system" else "its site may join again"
        self._roster.warn(f"{what}; {how} (restart {task.restarts} of {self._faults.max_restarts})", task.name)
        self._end(task, now)

    def _end(self, task: Task, now: float) -> None:
        """See to it that nothing of a lost worker runs on."""
        if task.over:
            self.gone(task, now)
        else:
            # One that still speaks is about to end by itself; one that does not will never.
            task.kill_at = now + (self._graces.abort if task.session in ("open", "closed") else 0.0)

    def _kill(self, task: Task, now: float) -> None:
        if not task.killed:
            self._roster.actions.append(run.KillWorker(task.name))
            task.killed, task.kill_at = True, now + self._graces.kill
        else:
            self._roster.warn(f"{task.name} is not known to have ended {self._graces.kill:g} s after it was killed", task.name)
            self.gone(task, now)

    def _start_again(self, task: Task, now: float) -> None:
        task.begin_again()
        task.back_by = now + self._faults.join_timeout
        if task.type == "system":
            self._roster.actions.append(run.RestartWorker(task.name))
