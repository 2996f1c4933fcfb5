"""What a root may report as its result (see `flame_run.run.summary`): the summary is made of it, so its types are checked."""

from collections.abc import Callable, Mapping
from math import isfinite
from typing import Any

from flame_run.words import LONGEST


def why_no_result(result: Mapping[str, Any]) -> str | None:
    """What is wrong with a result, a phrase that begins with its key; None if nothing is. Keys may be missing."""
    for key, (fits, what) in _FORMS.items():
        if key in result and not fits(result[key]):
            return f"{key} is not {what}"
    return None


def _number(value: object) -> bool:
    """NaN and infinity are numbers of a model."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def _seconds(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and _fits_float(value) and value >= 0


def _fits_float(value: float) -> bool:
    try:
        return isfinite(value)
    except OverflowError:
        return False


def _count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


def _text(value: object) -> bool:
    return value is None or (isinstance(value, str) and len(value) <= LONGEST and value.isprintable())


def _metrics(value: object) -> bool:
    if not isinstance(value, dict):
        return False
    return all(_text(name) and _number(each) and (isinstance(each, float) or _fits_float(each)) for name, each in value.items())


def _best(value: object) -> bool:
    if not isinstance(value, dict):
        return False
    forms: dict[str, Callable[[object], bool]] = {"round": _round, "metrics": _metrics, "model": _text, "model_sha256": _text}
    return all(key not in value or fits(value[key]) for key, fits in forms.items())


def _round(value: object) -> bool:
    return value is None or _count(value)


def _times(value: object) -> bool:
    return isinstance(value, list) and all(_seconds(each) for each in value)


_FORMS: Mapping[str, tuple[Callable[[object], bool], str]] = {
    "metrics": (_metrics, "a map of numbers"),
    "best": (_best, "the best round and its model"),
    "model": (_text, "a path"),
    "model_sha256": (_text, "a hash"),
    "rounds": (_count, "a number of rounds"),
    "round_seconds": (_times, "a list of seconds"),
    "samples": (_seconds, "a number of samples"),
    "training_seconds": (_seconds, "a time"),
    "stopped": (_text, "a reason"),
}
