"""The contract of a sampler, and the one that takes every sample."""

from roles.part import Part


class Sampler(Part):
    """Chooses samples: its client half returns the data of a round from `loader_data`."""

    def deadline(self, round: int) -> float | None:  # noqa: ARG002 - for those that have one
        """Seconds from the start of `round` after which it closes with what has come, at least one update; None: no such limit.

        Asked at the root.
        """
        return None


class All(Sampler):
    """Trainers use all their samples."""
