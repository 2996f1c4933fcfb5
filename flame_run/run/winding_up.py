"""The end of a job: the verdict, then time for the workers to end by themselves, then the kill, then the finish."""

from dataclasses import dataclass
from math import inf

from flame_run.run import events as run
from flame_run.run.roster import Roster
from flame_run.run.wording import listed


@dataclass(frozen=True, slots=True, kw_only=True)
class Graces:
    """How long the supervisor waits, seconds."""

    judge: float = 1.5
    """For the clear cause of a failure."""
    abort: float = 3.0
    """For workers to end after they were told to."""
    exit: float = 10.0
    """For the processes of workers that completed to end."""
    kill: float = 5.0
    """For killed processes to be gone."""


class WindingUp:
    """What follows from a verdict. The first verdict stays."""

    def __init__(self, roster: Roster, graces: Graces) -> None:
        self._roster = roster
        self._graces = graces
        self._kill_at = self._finish_at = inf
        self.verdict: run.Finish | None = None
        self.decided: float | None = None
        """When the verdict was given."""
        self.over = False
        """Whether `Finish` was given."""

    def deadline(self) -> float:
        """When the next step is due; infinity before the verdict."""
        return min(self._kill_at, self._finish_at)

    def decide(self, verdict: run.Finish, time: float, now: float) -> None:
        """End the job with `verdict`, unless it is ending already."""
        if self.verdict is not None:
            return
        self.verdict, self.decided = verdict, now
        if verdict.status == "completed":
            self._kill_at = now + self._graces.exit
            return
        self._kill_at = now + self._graces.abort
        self._roster.actions.append(run.AbortJob(verdict.error or verdict.status))
        for task in self._roster.doubtful:
            self._roster.change(task, "terminated", time, error=task.doubt)

    def hurry(self, now: float) -> None:
        """Somebody asks again: no more time for the workers."""
        self._kill_at = min(self._kill_at, now)

    def step(self, time: float, now: float) -> None:
        """Take the steps that are due at `now`."""
        if self.verdict is None:
            return
        lasting = self._roster.lasting
        if lasting and now >= self._kill_at:
            if self.verdict.status == "completed":
                self._roster.warn(f"the job has completed; killed, because they did not end: {listed(lasting)}")
            self._roster.actions.append(run.KillWorkers(lasting, self.verdict.error or "the job has completed"))
            self._kill_at, self._finish_at = inf, now + self._graces.kill
        if not lasting or now >= self._finish_at:
            if lasting:
                self._roster.warn(f"not known to have ended {self._graces.kill:g} s after they were killed: {listed(lasting)}")
            for task in self._roster:
                self._roster.change(task, "terminated", time)
            self._roster.actions.append(self.verdict)
            self.over = True
