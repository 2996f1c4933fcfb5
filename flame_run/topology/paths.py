"""Realms and labels as `/`-separated paths."""

import re
from collections.abc import Iterable

PATH = re.compile(r"[^/\n]+(/[^/\n]+)*")
"""As in the JSON Schema of the documents, which reports any other."""


def is_path(text: str) -> bool:
    """Tell whether `text` is a path of non-empty parts."""
    return PATH.fullmatch(text) is not None


def parts(path: str) -> tuple[str, ...]:
    """Split a path: `default/us` -> (`default`, `us`)."""
    return tuple(path.split("/"))


def is_prefix(prefix: str, path: str) -> bool:
    """Tell whether `prefix` is `path` or one of the places that it lies in: `default/us` of `default/us/west`."""
    ours = parts(prefix)
    return parts(path)[: len(ours)] == ours


def longest_prefix(path: str, labels: Iterable[str]) -> str | None:
    """Find the label that is the longest path prefix of `path`, None if no label is one."""
    return max((label for label in labels if is_prefix(label, path)), key=lambda label: len(parts(label)), default=None)


def depth(labels: Iterable[str]) -> int:
    """Count the parts of the deepest label."""
    return max((len(parts(label)) for label in labels), default=0)
