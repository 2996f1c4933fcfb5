"""The JSON Schema files that ship with the package."""

import json
from importlib import resources
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from flame_run.documents import DOCUMENTS, check_document, legal_values, nearest, strip_comments


def schema_file(kind: str) -> Any:
    return json.loads(resources.files("flame_run.documents").joinpath(f"{kind}.schema.json").read_text())


@pytest.mark.parametrize("kind", DOCUMENTS)
def test_each_file_is_a_json_schema_of_draft_2020_12(kind: str):
    content = schema_file(kind)
    assert content["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    Draft202012Validator.check_schema(content)


def objects(node: Any) -> list[dict[str, Any]]:
    children = node.values() if isinstance(node, dict) else node if isinstance(node, list) else []
    found = [entry for child in children for entry in objects(child)]
    return [node, *found] if isinstance(node, dict) and "properties" in node else found


@pytest.mark.parametrize("kind", DOCUMENTS)
def test_editors_accept_comments_and_find_unknown_keys_everywhere(kind: str):
    for entry in objects(schema_file(kind)):
        if entry.get("additionalProperties") is not True:
            assert entry["additionalProperties"] is False
            assert "//" in entry["properties"]


def test_keys_that_flame_writes_and_does_not_use_are_tolerated():
    channel = {
        "name": "c", "pair": ["a", "b"], "funcTags": {"a": ["fetch"], "b": ["distribute"]}, "backend": "p2p",
        "brokerHost": "localhost", "isBidirectional": True, "isUnidirectional": False,
    }  # fmt: skip
    schema = {
        "name": "A schema v1.0.0",
        "revision": 3,
        "connectors": [],
        "roles": [{"name": "a"}, {"name": "b"}],
        "channels": [channel],
    }
    assert check_document("schema", schema) == []


def test_several_problems_come_in_the_order_of_the_document():
    content = {"name": "x", "roles": [{"name": "a", "x": 1}, {"name": ""}], "channels": [{}]}
    assert [problem.place for problem in check_document("schema", content)] == [
        "schema.roles[0].x (role a)",
        "schema.roles[1].name",
        "schema.channels[0].name",
        "schema.channels[0].pair",
        "schema.channels[0].funcTags",
    ]


def test_a_long_value_is_described_and_not_printed():
    (problem,) = check_document(
        "dataset", {"datasets": {f"d{i}": i for i in range(100)}, "dataSpec": [{"role": "r", "datasets": ["d"]}]}
    )
    assert problem.value == "a map of 100 entries"


def test_comments_are_stripped_from_a_copy():
    content = {"//": 1, "a": [{"//": 2, "b": 3}]}
    assert strip_comments(content) == {"a": [{"b": 3}]}
    assert "//" in content


@pytest.mark.parametrize(
    ("word", "legal", "found"),
    [("uplod", ["fetch", "upload"], "upload"), ("UPLOAD", ["upload"], "upload"), ("zzz", ["fetch"], None), (3, ["3"], None)],
)
def test_the_nearest_spelling_is_found(word: object, legal: list[str], found: str | None):
    assert nearest(word, legal) == found


def test_legal_values_are_listed_once_and_counted_where_they_are_many():
    assert legal_values("b", ["a", "b", "a"]) == "legal: a, b"
    assert legal_values("x", []) == ""
    assert legal_values("zz", [f"value-{number}" for number in range(20)]).endswith(" and 8 more")
