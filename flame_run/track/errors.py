"""Errors of tracking.

FlameRunError
└── TrackError   the tracking store could not be reached, or refused what it was given
"""

from flame_run.errors import FlameRunError


class TrackError(FlameRunError):
    """The tracking store did not take something.

    `permanent` is True where another try cannot help, such as a value that the store refuses.
    """

    def __init__(self, message: str, *, permanent: bool = False) -> None:
        super().__init__(message)
        self.permanent = permanent
