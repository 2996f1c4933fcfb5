"""Errors of the runner and the exit status that each one means.

FlameRunError
├── InvalidConfig    one or more problems found before anything was started   (2)
├── JobFailed        a worker, the launcher or the fault policy ended the job (1)
├── JobTerminated    the job reached `job.maxRunTime`                         (1)
└── Interrupted      Ctrl-C, SIGTERM or `flame-run stop`                      (130)
"""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong with the input: where, what, why, and what is legal."""

    place: str
    """Path in the documents, such as `schema.channels[1].pair[0]`, with the name of the role or channel where there is one."""
    value: object
    reason: str
    legal: str = ""

    def __str__(self) -> str:
        legal = f" ({self.legal})" if self.legal else ""
        return f"{self.place} = {self.value!r}: {self.reason}{legal}"


class FlameRunError(Exception):
    """Base of every error that the runner raises on purpose."""

    exit_status = 1


class InvalidConfig(FlameRunError):
    """The configuration is wrong; carries every problem found."""

    exit_status = 2

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__(tuple(problems))
        self.problems = tuple(problems)

    def __str__(self) -> str:
        count = len(self.problems)
        lines = "\n".join(f"  {problem}" for problem in self.problems)
        return f"{count} problem{'s' if count != 1 else ''} in the configuration:\n{lines}"


class JobFailed(FlameRunError):
    """The job could not go on; the text names the worker, the cause and the log."""


class JobTerminated(FlameRunError):
    """The job was ended by its own limit, `job.maxRunTime`."""


class Interrupted(FlameRunError):
    """Somebody asked the job to stop."""

    exit_status = 130
