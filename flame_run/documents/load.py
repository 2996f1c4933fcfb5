"""Documents from JSON or YAML files."""

import json
import re
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from flame_run.documents.check import COMMENT, strip_comments
from flame_run.errors import InvalidConfig, Problem

YAML_SUFFIXES = (".yaml", ".yml")
TRAILING_COMMA = re.compile(r",(?=\s*[}\]])")


class DocumentError(ValueError):
    """A file that is not a document; the text is the reason."""


class DocumentLoader(yaml.SafeLoader):
    """YAML as Hydra reads it: `1e-3` is a number, a date is text, a key given twice is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """Build a map; refuses a key given twice.

        Raises:
            DocumentError: names the key, its line and column.
        """
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen and key.value != COMMENT:
                mark = key.start_mark
                raise DocumentError(f"line {mark.line + 1}, column {mark.column + 1}: key {key.value!r} is given twice")
            seen.add(str(key.value))
        return super().construct_mapping(node, deep=deep)


DocumentLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
DocumentLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?([0-9][0-9_]*)(\.[0-9_]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def load_document(path: str | Path, *, place: str = "document") -> dict[str, Any]:
    """Read a document from a JSON or YAML file.

    The suffix decides the format (`.json`, `.yaml`, `.yml`); without one of these a file that starts with a
    brace or bracket is JSON. Comments under a `"//"` key are left out.

    Args:
        path: the file.
        place: what messages call it, such as `schema_file`.

    Raises:
        InvalidConfig: one problem: no such file, a folder, not text, a syntax error with its line and column,
            a key given twice, or something else than a map at the top.
    """
    try:
        content = _parse(Path(path))
        stripped = strip_comments(content)
    except DocumentError as error:
        raise InvalidConfig([Problem(place, str(path), str(error), "a JSON or YAML file that holds a map")]) from error
    except RecursionError as error:
        raise InvalidConfig([Problem(place, str(path), "is nested too deeply or contains itself")]) from error
    if not isinstance(stripped, dict):
        held = "a list" if isinstance(stripped, list) else "a single value"
        found = "is empty" if stripped is None else f"holds {held} at the top, not a map"
        raise InvalidConfig([Problem(place, str(path), found, "a JSON or YAML file that holds a map")])
    return stripped


def _parse(path: Path) -> Any:
    text = _read(path)
    suffix = path.suffix.lower()
    if suffix == ".json" or (suffix not in YAML_SUFFIXES and text.lstrip()[:1] in ("{", "[")):
        return _parse_json(text)
    return _parse_yaml(text)


def _read(path: Path) -> str:
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise DocumentError("there is no such file") from error
    except IsADirectoryError as error:
        raise DocumentError("is a folder, not a file") from error
    except (OSError, ValueError) as error:
        raise DocumentError(f"cannot be read: {getattr(error, 'strerror', None) or error}") from error
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DocumentError(f"is not UTF-8 text (byte {error.start})") from error
    if "\0" in text:
        raise DocumentError("is not text: it contains NUL bytes")
    if not text.strip():
        raise DocumentError("is empty")
    return text


def _parse_json(text: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_unique_keys, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        raise DocumentError(_syntax_error(text, error)) from error
    except DocumentError:
        raise
    except ValueError as error:
        raise DocumentError(f"is not valid JSON: {error}") from error


def _syntax_error(text: str, error: json.JSONDecodeError) -> str:
    for comma in TRAILING_COMMA.finditer(text):
        closing = text.find(text[comma.end() :].lstrip()[0], comma.end())
        if comma.start() <= error.pos <= closing:
            line = text.count("\n", 0, comma.start()) + 1
            column = comma.start() - text.rfind("\n", 0, comma.start())
            return f"line {line}, column {column}: trailing comma: JSON allows none before {text[closing]!r}"
    return f"line {error.lineno}, column {error.colno}: {error.msg}"


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content: dict[str, Any] = {}
    for key, value in pairs:
        if key in content and key != COMMENT:
            raise DocumentError(f"key {key!r} is given twice in one object")
        content[key] = value
    return content


def _no_constant(name: str) -> float:
    raise DocumentError(f"{name} is not a JSON number")


def _parse_yaml(text: str) -> Any:
    try:
        return yaml.load(text, Loader=DocumentLoader)  # noqa: S506  a subclass of SafeLoader
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        reason = ", ".join(part for part in (error.context, error.problem) if part) or "is not valid YAML"
        raise DocumentError(f"{where}{reason}") from error
    except yaml.YAMLError as error:
        raise DocumentError(f"is not valid YAML: {error}") from error
    except DocumentError:
        raise
    except ValueError as error:
        raise DocumentError(f"is not valid YAML: {error}") from error
