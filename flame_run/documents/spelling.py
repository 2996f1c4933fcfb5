"""Nearest spellings and lists of legal values for messages."""

import difflib
from collections.abc import Iterable

SHOWN = 12
"""Legal values that a message lists before it only counts them."""


def nearest(word: object, legal: Iterable[str]) -> str | None:
    """Find the legal value that `word` was probably meant to be, None if nothing is near. Case does not count."""
    if not isinstance(word, str):
        return None
    by_lower_case: dict[str, str] = {}
    for value in legal:
        by_lower_case.setdefault(value.lower(), value)
    matches = difflib.get_close_matches(word.lower(), by_lower_case, n=1, cutoff=0.6)
    return by_lower_case[matches[0]] if matches else None


def legal_values(word: object, legal: Iterable[str]) -> str:
    """List legal values in their order after the nearest spelling: `did you mean 'upload'? legal: fetch, upload`."""
    values = list(dict.fromkeys(legal))
    if not values:
        return ""
    shown = ", ".join(values[:SHOWN])
    more = f" and {len(values) - SHOWN} more" if len(values) > SHOWN else ""
    match = nearest(word, values)
    meant = f"did you mean {match!r}? " if match is not None and match != word else ""
    return f"{meant}legal: {shown}{more}"
