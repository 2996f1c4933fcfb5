"""Documents from files."""

from pathlib import Path

import pytest

from flame_run.documents import load_document
from flame_run.errors import InvalidConfig

# the shape of a file that Flame ships; it wraps an object in an object and has a trailing comma
HYBRID_DATA_SPEC = '{\n    {\n        "role": "trainer",\n        "datasetGroups": {"eu": ["a", "b",]}\n    }\n}\n'


def told(path: Path, text: str | bytes) -> str:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InvalidConfig) as raised:
        load_document(path, place="schema_file")
    (problem,) = raised.value.problems
    assert problem.place == "schema_file"
    assert problem.value == str(path)
    return problem.reason


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"name": "x",\n "roles": [1, 2,]\n}', "line 2, column 16: trailing comma: JSON allows none before ']'"),
        ('{"name": "x",\n}', "line 1, column 13: trailing comma: JSON allows none before '}'"),
        ('{"name": "a,]",\n  "x": 1 "y": 2}', "line 2, column 10: Expecting ',' delimiter"),
        ('{"name": "x"', "line 1, column 13: Expecting ',' delimiter"),
        (HYBRID_DATA_SPEC, "line 2, column 5: Expecting property name"),
        ('{"a": 1, "b": {"c": 1, "c": 2}}', "key 'c' is given twice"),
        ('{"a": NaN}', "NaN is not a JSON number"),
        ('{"a": ' + "9" * 5000 + "}", "is not valid JSON"),
        ("[" * 100_000, "nested too deeply"),
        ("[1]", "holds a list at the top, not a map"),
        ('"text"', "holds a single value at the top, not a map"),
        ("", "is empty"),
        (" \n\t", "is empty"),
        (b"\x00\x01\x02", "NUL bytes"),
        (b"\xff\xfe{\x00", "not UTF-8 text (byte 0)"),
    ],
)
def test_a_broken_json_file_is_one_problem_that_says_where_and_why(tmp_path: Path, text: str | bytes, reason: str):
    assert reason in told(tmp_path / "file.json", text)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a: 1\nb: [1, 2\nc: 3\n", "line 3, column 2: "),
        ("a:\n\t- 1\n", "line 2, column 1: while scanning for the next token, found character '\\t'"),
        ("a: 1\nb: 2\na: 3\n", "line 3, column 1: key 'a' is given twice"),
        ("a: &x\n  b: *x\n", "contains itself"),
        ("- 1\n- 2\n", "holds a list at the top"),
        ("just text\n", "holds a single value at the top"),
        ("# nothing but a comment\n", "is empty"),
        ("a: !!python/object:os.system {}\n", "could not determine a constructor"),
        ("? [1, 2]\n: 3\n", "unhashable key"),
        ("a: *nobody\n", "undefined alias"),
        ("a: 1\n---\nb: 2\n", "expected a single document"),
    ],
)
def test_a_broken_yaml_file_is_one_problem_that_says_where_and_why(tmp_path: Path, text: str, reason: str):
    assert reason in told(tmp_path / "file.yaml", text)


def test_a_file_that_is_not_there_is_a_problem(tmp_path: Path):
    with pytest.raises(InvalidConfig, match="there is no such file"):
        load_document(tmp_path / "nothing.json")


def test_a_folder_is_a_problem(tmp_path: Path):
    with pytest.raises(InvalidConfig, match="is a folder, not a file"):
        load_document(tmp_path)


def test_a_path_that_no_file_can_have_is_a_problem():
    with pytest.raises(InvalidConfig, match="cannot be read"):
        load_document("a\0b")


def test_comments_are_left_out_at_any_depth_and_may_be_several(tmp_path: Path):
    path = tmp_path / "schema.json"
    path.write_text('{"//": "one", "//": "two", "name": "x", "roles": [{"//": {"a": 1}, "name": "r"}]}')
    assert load_document(path) == {"name": "x", "roles": [{"name": "r"}]}


def test_comments_are_left_out_of_yaml(tmp_path: Path):
    path = tmp_path / "schema.yml"
    path.write_text('"//": one\n"//": two\nname: x\n')
    assert load_document(path) == {"name": "x"}


def test_yaml_is_read_as_hydra_reads_it(tmp_path: Path):
    path = tmp_path / "x.yaml"
    path.write_text("rate: 1e-3\nday: 2024-01-01\ntext: '2'\nname: &n a\nagain: *n\n")
    assert load_document(path) == {"rate": 0.001, "day": "2024-01-01", "text": "2", "name": "a", "again": "a"}


def test_a_merge_key_of_yaml_works_and_is_no_duplicate(tmp_path: Path):
    path = tmp_path / "x.yaml"
    path.write_text("base: &b {x: 1, y: 2}\nmore: {<<: *b, y: 3}\n")
    assert load_document(path)["more"] == {"x": 1, "y": 3}


@pytest.mark.parametrize(("name", "text"), [("plain", '{"a": 1}'), ("plain.txt", "a: 1"), ("x.JSON", '\ufeff{"a": 1}')])
def test_content_decides_where_the_suffix_says_nothing(tmp_path: Path, name: str, text: str):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    assert load_document(path) == {"a": 1}
