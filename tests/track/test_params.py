from hypothesis import given
from hypothesis import strategies as st

from flame_run.track.names import MAX_KEY, MAX_VALUE, legal_name, model_name
from flame_run.track.params import run_parameters
from flame_run.track.records import milliseconds, read_records


def test_parameters_are_the_resolved_leaves_of_the_configuration(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(
        """
job: {name: digits, rounds: 3, seed: null, rate: "${job.rounds}"}
schema: {channels: [{name: param, pair: [a, b]}]}
model: {path: "${worker:dataset.path}", missing: "???", nothing: "${job.nothing}"}
worker: {name: null}
odd: {"key with = and @": true}
""",
    )
    assert run_parameters(path) == {
        "job.name": "digits",
        "job.rounds": "3",
        "job.seed": "null",
        "job.rate": "3",
        "schema.channels": '[{"name": "param", "pair": ["a", "b"]}]',
        "model.path": "${worker:dataset.path}",
        "model.missing": "???",
        "model.nothing": "${job.nothing}",
        "odd.key with _ and _": "true",
    }


def test_parameters_are_cut_to_what_mlflow_takes(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(f"{'k' * 300}: {'v' * 7000}\n")
    assert run_parameters(path) == {"k" * MAX_KEY: "v" * MAX_VALUE}


def test_a_run_without_a_saved_configuration_has_no_parameters(tmp_path):
    assert run_parameters(tmp_path / "config.yaml") == {}


@given(st.text(min_size=1, max_size=300))
def test_every_name_becomes_one_that_mlflow_takes(name):
    from mlflow.utils.validation import _validate_metric_name

    _validate_metric_name(legal_name(name))


def test_legal_names_stay():
    for name in ("loss", "val/accuracy", "top 5", "a.b-c_d:e", "loss/aggregator-0"):
        assert legal_name(name) == name
    assert model_name("best", "root.1-0") == "best-root_1-0"


@given(
    lines=st.lists(st.text(st.characters(codec="utf-8"), max_size=8), max_size=8), cuts=st.lists(st.integers(0, 200), max_size=8)
)
def test_records_are_read_once_however_the_file_grows(tmp_path_factory, lines, cuts):
    import json

    path = tmp_path_factory.mktemp("grow") / "metrics.jsonl"
    data = b"".join(json.dumps({"line": line}, ensure_ascii=False).encode() + b"\n" for line in lines)
    offset, seen = 0, []
    for cut in [*sorted(min(cut, len(data)) for cut in cuts), len(data)]:
        path.write_bytes(data[:cut])
        part = read_records(path, offset, limit=2)
        while part.offset > offset:
            seen += [record["line"] for record in part.records]
            offset = part.offset
            part = read_records(path, offset, limit=2)
    assert seen == lines


def test_a_file_that_was_written_anew_is_read_from_its_start(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"a": 1}\n')
    assert read_records(path, 1000).records == ({"a": 1},)
    assert read_records(tmp_path / "missing", 5).offset == 5


def test_times_are_seconds_or_iso_text():
    assert milliseconds(1.5) == 1500
    assert milliseconds("1970-01-01T00:00:02+00:00") == 2000
