"""The wait for the first round, `faults.join_timeout`."""

from math import inf

from flame_run.run.roster import Roster
from flame_run.run.task import Task
from flame_run.run.wording import missing


class JoinWait:
    """Until when the workers of `roster` have to be in the first round; a loss before it begins the wait anew."""

    def __init__(self, roster: Roster, timeout: float) -> None:
        self._roster = roster
        self._timeout = timeout
        self.begun = 0.0
        """When the wait began, on the monotonic clock."""
        self.first_round: float | None = None
        """When the first round began."""

    @property
    def until(self) -> float:
        """The end of the wait; infinity once a worker is in its first round."""
        over = self.first_round is not None or any(task.state == "completed" for task in self._roster)
        return inf if over else self.begun + self._timeout

    @property
    def stuck(self) -> list[Task]:
        """The workers that hold the others up: those that are not ready, else those that are still preparing."""
        waiting = [task for task in self._roster if not task.final and not task.lost]
        return self._unready(waiting) or [task for task in waiting if task.state == "starting"]

    @property
    def unready(self) -> list[str]:
        """Names of the workers that are not ready."""
        return [task.name for task in self._unready(list(self._roster))]

    @property
    def overdue(self) -> str:
        """What to say at the end of the wait."""
        return f"no round began within {self.named}: {missing(tuple(self._roster))}"

    @property
    def named(self) -> str:
        """The wait in words."""
        return f"faults.join_timeout ({self._timeout:g} s)"

    @staticmethod
    def _unready(tasks: list[Task]) -> list[Task]:
        return [task for task in tasks if not task.ready and not task.final]
