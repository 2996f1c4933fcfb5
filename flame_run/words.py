"""Text of others on its way into logs, terminals and messages: harmless, and not without end."""

LONGEST = 4096
"""Characters."""


def readable(text: str, most: int | None = LONGEST) -> str:
    """`text` without characters that a terminal would obey, cut after `most` characters (None: whole); lines stay lines."""
    return "".join(char if char.isprintable() or char in "\n\t" else "?" for char in text[:most])


class Bounded:
    """Says which of many lines to write, since who can make us write one can fill the disk: the first, then powers of two.

    Args:
        all_of: how many of the first are written.
    """

    def __init__(self, all_of: int = 100) -> None:
        self._all_of = all_of
        self._count = 0

    def next(self) -> str | None:
        """What to add to the next line; None: do not write it. Call it under a lock of your own."""
        self._count += 1
        if self._count <= self._all_of:
            return ""
        return f"; the {self._count}th that was refused" if self._count.bit_count() == 1 else None
