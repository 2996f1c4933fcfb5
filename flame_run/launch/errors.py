"""Errors of launching.

FlameRunError
└── LaunchError      the launcher itself could not do its work
    ├── WorkerDied   a worker process ended without handing back a result
    └── ResultLost   a worker's result or exception cannot travel to the runner; the text holds its traceback
"""

from flame_run.errors import FlameRunError


class LaunchError(FlameRunError):
    """The launcher could not start or follow the workers; the text says what broke."""


class WorkerDied(LaunchError):
    """A worker process ended without a result: by a signal, by `sys.exit`, or because its launcher ended it."""

    def __init__(self, text: str, exit_code: int | None = None) -> None:
        super().__init__(text)
        self.exit_code = exit_code
        """Exit status, or minus the number of the signal; None where it is not known."""


class ResultLost(LaunchError):
    """The result or exception of a worker cannot be pickled; the text holds its type and formatted traceback."""
