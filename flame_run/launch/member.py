"""What a launch knows of one of its processes."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hydra.core.utils import JobReturn

from flame_run.launch.compose import JobConfig
from flame_run.launch.job import died
from flame_run.launch.turns import NO_TURN, Turn, read_turn


@dataclass(slots=True)
class Member:
    """One process of a launch and its jobs."""

    number: int
    jobs: Mapping[int, JobConfig]
    """By their indices; seldom more than one."""
    result: int | None = None
    """Descriptor of its result file while the process lives."""
    pid: int | None = None
    outcomes: Sequence[JobReturn] = ()
    """In the order of `jobs`, once they are known."""

    @property
    def shared(self) -> bool:
        """Whether several jobs share the process."""
        return len(self.jobs) > 1

    @property
    def turn(self) -> Turn:
        """Which job has the turn, by its index; to be asked before `close`."""
        turn = NO_TURN if self.result is None else read_turn(self.result)
        return turn if turn.who is None else turn._replace(who=tuple(self.jobs)[turn.who])

    def die(self, code: int | None, reason: str = "") -> None:
        """Note that the process ended without results; see `died`."""
        self.outcomes = [died(job, self.pid, code, reason) for job in self.jobs.values()]

    def die_in_turn(self, code: int, holder: int | None) -> None:
        """Note that the process ended without results while job `holder` had the turn; None: nobody had it."""
        who = "nobody" if holder is None else self.jobs[holder].label
        self.outcomes = [
            died(job, self.pid, code, "" if index == holder else f"while {who} had the turn") for index, job in self.jobs.items()
        ]

    def close(self) -> None:
        """Let go of the result file."""
        if self.result is not None:
            os.close(self.result)
            self.result = None
