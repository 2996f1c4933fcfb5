"""The docstring of each shipped part names its keys, and of each the value that it has where nobody says anything."""

import ast
import importlib
import inspect
import re
from typing import Any

import pytest

from roles.catalogue import TRAITS

ENTRY = re.compile(r"^ {8}(\w+): ", re.MULTILINE)
"""The first line of what `Args` says of one key."""
DEFAULT = re.compile(r"""("[^"]*"|[\w.+-]+)(?: by default|, the default| \(the default\))""")
MISSING = object()


def entries(doc: str) -> dict[str, str]:
    """Key -> what the section `Args` of a docstring says of it, on one line."""
    _, _, args = doc.partition("    Args:\n")
    section = args.split("\n\n")[0]
    _, *rest = ENTRY.split(section)
    return {key: " ".join(text.split()) for key, text in zip(rest[::2], rest[1::2], strict=True)}


def described(text: str) -> Any:
    """The default that an entry names, `MISSING` where it names none."""
    found = DEFAULT.search(text)
    return MISSING if found is None else ast.literal_eval(found[1])


@pytest.mark.parametrize("target", TRAITS)
def test_a_docstring_names_every_key_with_its_default(target: str) -> None:
    module, _, name = target.rpartition(".")
    part = getattr(importlib.import_module(module), name)
    optional = {key: each.default for key, each in inspect.signature(part).parameters.items() if each.default is not each.empty}
    told = {key: described(text) for key, text in entries(part.__doc__).items()}
    assert {key: (type(value), value) for key, value in told.items()} == {
        key: (type(value), value) for key, value in optional.items()
    }


def test_a_default_is_read_from_each_way_to_say_it() -> None:
    assert described('one of "a" (the default) or "b"') == "a"
    assert described("from 0; 1e-05 by default. 3 is more") == 1e-5
    assert described("None, the default: all of them") is None
    assert described("in [0, 1); 1.0 in the paper") is MISSING
