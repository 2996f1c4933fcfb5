"""`launcher=cohort`: many workers as threads of a few processes, for simulations with more workers than a machine has cores."""

import os
from collections.abc import Collection, Sequence

from typing_extensions import override

from flame_run.launch.compose import JobConfig
from flame_run.launch.config import PRELOAD, TURN_WARNING
from flame_run.launch.crew import Observer
from flame_run.launch.forking import ForkingLauncher


class CohortLauncher(ForkingLauncher):
    """Deals the jobs to `processes` processes; in each of them one job at a time runs between its waits.

    The observer hears nothing of the start of a process that several jobs share, and of its end once for each of them.

    Args:
        processes: how many; None: one for each core that this process may use.
        preload: modules that the fork server imports before it forks.
        import_timeout: longest wait for them, seconds.
        turn_warning: seconds after which the observer is told of a turn for which the others of a process wait; None: never.
        observer: told of every end of a job, and of long turns, from the thread that runs `launch`.

    """

    def __init__(
        self,
        processes: int | None = None,
        preload: Sequence[str] = PRELOAD,
        import_timeout: float = 300.0,
        turn_warning: float | None = TURN_WARNING,
        observer: Observer | None = None,
    ) -> None:
        super().__init__(preload, import_timeout, observer)
        self.long_turn = turn_warning
        self.processes = len(os.sched_getaffinity(0)) if processes is None else processes
        self.alone: Collection[int] = ()
        """Indices of the jobs that get a process for themselves, beside the others."""

    @override
    def deal(self, jobs: Sequence[JobConfig]) -> list[tuple[int, ...]]:
        """In turn, as cards are dealt: jobs that follow one another are done at the same time."""
        shared = [index for index in range(len(jobs)) if index not in self.alone]
        hands = [tuple(shared[first :: self.processes]) for first in range(min(self.processes, len(shared)))]
        return [*((index,) for index in sorted(self.alone)), *hands]
