"""Whether values from a configuration are of the kinds that a constructor takes, told from its annotations."""

from collections.abc import Iterator, Mapping
from types import NoneType, UnionType
from typing import Any, Final, Literal, Union, get_args, get_origin, get_type_hints

from flame_run.errors import Problem

_SAID: Final[Mapping[Any, str]] = {int: "a whole number", float: "a number", bool: "true or false", str: "a text", NoneType: "null"}
"""Kinds that can be told from a value, and how they are called."""


def mistyped(found: type, values: Mapping[str, Any], place: str) -> Iterator[Problem]:
    """The values for constructor parameters of `found` that cannot be right. Annotations of other kinds allow everything."""
    try:
        hints = get_type_hints(found.__init__)  # type: ignore[misc]  # of this very class
    except NameError:  # a class of the user's whose annotations are for type checkers only
        return
    for key, value in values.items():
        kinds = list(_kinds(hints.get(key, Any)))
        known = all(kind in _SAID or get_origin(kind) is Literal for kind in kinds)
        if known and not any(_fits(value, kind) for kind in kinds):
            yield Problem(f"{place}.{key}", value, f"must be {' or '.join(map(_said, kinds))}")


def _kinds(hint: Any) -> Iterator[Any]:
    if get_origin(hint) in (Union, UnionType):
        for each in get_args(hint):
            yield from _kinds(each)
    else:
        yield hint


def _said(kind: Any) -> str:
    return " or ".join(map(str, get_args(kind))) if get_origin(kind) is Literal else _SAID[kind]


def _fits(value: Any, kind: Any) -> bool:
    if get_origin(kind) is Literal:
        return value in get_args(kind)
    if isinstance(value, bool):
        return kind is bool
    return isinstance(value, (int, float) if kind is float else kind)
