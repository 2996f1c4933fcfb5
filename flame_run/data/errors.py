"""Errors of data.

FlameRunError
└── DataError        data cannot be found, fetched, read or cut
"""

from flame_run.errors import FlameRunError, Problem


class DataError(FlameRunError):
    """Data cannot be found, fetched, read or cut: where, what, why, and what is legal."""

    def __init__(self, place: str, value: object, reason: str, legal: str = "") -> None:
        super().__init__(place, value, reason, legal)
        self.problem = Problem(place, value, reason, legal)

    def __str__(self) -> str:
        return str(self.problem)
