"""Errors of joining.

FlameRunError
├── JobRefused       this site would not do what the job asks for                 (2)
└── JoinRefused      the job would not have this worker                           (2)
"""

from collections.abc import Sequence

from flame_run.errors import FlameRunError, Problem


class JobRefused(FlameRunError):
    """The site refuses the job; carries everything that it refuses. Nothing of it was imported."""

    exit_status = 2

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__(tuple(problems))
        self.problems = tuple(problems)

    def __str__(self) -> str:
        return "this site refuses the job:\n" + "\n".join(f"  {problem}" for problem in self.problems)

    @property
    def for_the_job(self) -> str:
        """What the controller is told: what was refused and why, but not what this site would allow."""
        return "its site refuses the job: " + "; ".join(f"{each.place} = {each.value!r}: {each.reason}" for each in self.problems)


class JoinRefused(FlameRunError):
    """The controller would not have this worker: wrong token, no such worker, one of that name is there already."""

    exit_status = 2
