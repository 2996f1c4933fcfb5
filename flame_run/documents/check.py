"""Documents against their JSON Schema (draft 2020-12), with messages a person can act on."""

import json
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any, Final

from flame_run.documents.place import owner, place
from flame_run.documents.spelling import legal_values, nearest
from flame_run.errors import Problem

if TYPE_CHECKING:
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import ValidationError

DOCUMENTS: Final = ("schema", "dataset", "job")
COMMENT: Final = "//"
LONG = 160
"""Characters; a map or list that prints longer is only described."""
TYPES = {
    "object": "a map",
    "array": "a list",
    "string": "a text",
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "null": "null",
}


def strip_comments(content: Any) -> Any:
    """Copy `content` without the keys `//`, at any depth."""
    if isinstance(content, Mapping):
        return {key: strip_comments(value) for key, value in content.items() if key != COMMENT}
    if isinstance(content, (list, tuple)):
        return [strip_comments(value) for value in content]
    return content


def check_document(kind: str, content: Any) -> list[Problem]:
    """Everything that the JSON Schema of document `kind` (`schema`, `dataset` or `job`) says against `content`.

    Places start with `kind`. Keys that are no text are reported and otherwise left aside.
    """
    textual = _textual(content)
    reason = "a key must be a text; put it in quotes"
    keys = [Problem(place(kind, *path, of=owner(content, path)), key, reason) for path, key in _untextual_keys(content)]
    found = {(problem.place, problem.reason): problem for problem in keys}
    for error in sorted(_validator(kind).iter_errors(textual), key=lambda error: _document_order(textual, error.absolute_path)):
        for problem in _explain(kind, textual, error):
            found.setdefault((problem.place, problem.reason), problem)
    return list(found.values())


@cache
def _validator(kind: str) -> "Draft202012Validator":
    # imported here: `flame-run --help` needs no validator
    from jsonschema import Draft202012Validator  # noqa: PLC0415

    text = resources.files("flame_run.documents").joinpath(f"{kind}.schema.json").read_text(encoding="utf-8")
    return Draft202012Validator(json.loads(text))


def _textual(content: Any) -> Any:
    """Copy `content` without the keys that are no text, which a JSON Schema cannot judge."""
    if isinstance(content, Mapping):
        return {key: _textual(value) for key, value in content.items() if isinstance(key, str)}
    return [_textual(value) for value in content] if isinstance(content, (list, tuple)) else content


def _untextual_keys(content: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[tuple[str | int, ...], Any]]:
    if isinstance(content, Mapping):
        yield from ((path, key) for key in content if not isinstance(key, str))
        for key, value in content.items():
            yield from _untextual_keys(value, (*path, str(key)))
    elif isinstance(content, (list, tuple)):
        for at, value in enumerate(content):
            yield from _untextual_keys(value, (*path, at))


def _document_order(content: Any, path: Iterable[str | int]) -> list[int]:
    """Position of each step of `path` among its siblings."""
    positions: list[int] = []
    for part in path:
        positions.append(part if isinstance(part, int) else list(content).index(part))
        content = content[part]
    return positions


def _explain(kind: str, content: Any, error: "ValidationError") -> Iterator[Problem]:
    path = tuple(error.absolute_path)
    value: Any = error.instance
    wanted: Any = error.validator_value
    schema: Any = error.schema
    properties: Mapping[str, Any] = schema.get("properties", {})
    known = [key for key in properties if key != COMMENT]

    def problem(reason: str, legal: str = "", *further: str, given: Any = value) -> Problem:
        return Problem(place(kind, *path, *further, of=owner(content, path)), _short(given), reason, legal)

    match error.validator:
        case "additionalProperties":
            for key in [key for key in value if key not in known]:
                yield problem("unknown key", legal_values(key, known), key, given=value[key])
        case "required":
            # a misspelt key is told once, as the unknown key that it is
            meant = {nearest(key, wanted) for key in value if key not in known}
            for key in [key for key in wanted if key not in value and key not in meant]:
                yield problem("is required but missing", _description(kind, properties[key]), key, given=None)
        case "oneOf" if isinstance(value, Mapping) and not any(nearest(key, known) for key in value if key not in known):
            yield problem(_alternatives(value, wanted), given=sorted(value))
        case "enum":
            yield problem("is not a legal value", legal_values(value, [str(choice) for choice in wanted]))
        case "oneOf":
            return  # told by the rule of its type, or as an unknown key
        case rule:
            yield problem(_reason(str(rule), value, wanted), schema.get("description", ""))


def _description(kind: str, wanted: Mapping[str, Any]) -> str:
    schema: Any = _validator(kind).schema
    name = wanted.get("$ref", "").removeprefix("#/$defs/")
    return str(wanted.get("description") or schema["$defs"].get(name, {}).get("description", ""))


def _reason(rule: str, value: Any, wanted: Any) -> str:
    if rule == "type":
        kinds = [wanted] if isinstance(wanted, str) else wanted
        return f"must be {' or '.join(TYPES[kind] for kind in kinds)}, not {_kind(value)}"
    if rule == "uniqueItems":
        return f"names something twice: {', '.join(sorted({str(entry) for entry in value if value.count(entry) > 1}))}"
    if rule in ("minItems", "maxItems") and wanted > 1:
        return f"must have exactly {wanted} entries, not {len(value)}"
    reasons = {
        "pattern": "does not have the right form",
        "minimum": f"must be at least {wanted}",
        "maximum": f"must be at most {wanted}",
        "exclusiveMinimum": f"must be greater than {wanted}",
    }
    return reasons.get(rule, "must not be empty")


def _alternatives(value: Any, wanted: list[Any]) -> str:
    choices = [" and ".join(choice["required"]) for choice in wanted]
    given = [key for key in dict.fromkeys(key for choice in wanted for key in choice["required"]) if key in value]
    found = " and ".join(given) if given else "neither"
    return f"needs either {' or '.join(choices)}, and has {found}"


def _kind(value: object) -> str:
    kinds = {bool: "boolean", dict: "object", list: "array", str: "string", int: "integer", float: "number", type(None): "null"}
    return TYPES.get(kinds.get(type(value), ""), type(value).__name__)


def _short(value: Any) -> Any:
    if isinstance(value, (Mapping, list)) and len(repr(value)) > LONG:
        return f"{_kind(value)} of {len(value)} entries"
    return value
