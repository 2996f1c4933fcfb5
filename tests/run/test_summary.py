"""The summary, from one root, several, or none."""

import hashlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flame_run.run.folder import RunFolder
from flame_run.run.summary import Outcome, build_summary, combined_hash, failure_text, write_summary

KEYS = [
    "status", "rounds", "metrics", "best", "model", "model_sha256", "workers", "seconds", "round_seconds", "roots", "error"
]  # fmt: skip


def outcome(**values):
    some = {
        "status": "completed",
        "workers": {"aggregator-0": "completed"},
        "total_seconds": 10.0,
        "startup_seconds": 2.0,
        "training_seconds": 7.0,
        "rounds": 2,
    }
    return Outcome(**{**some, **values})


def result(loss, samples, times, digest, **more):
    best = {"round": 1, "metrics": {"loss": loss / 2}, "model": f"{digest}/best.pt", "model_sha256": digest * 2}
    return {
        "metrics": {"loss": loss},
        "best": best,
        "model": f"{digest}/last.pt",
        "model_sha256": digest,
        "rounds": len(times),
        "round_seconds": times,
        "samples": samples,
        "training_seconds": sum(times),
        **more,
    }


def test_the_values_of_a_single_root_stand_at_the_top(tmp_path):
    only = result(0.5, 100, [1.0, 2.0], "ab")
    summary = build_summary(outcome(results={"aggregator-0": only}), tmp_path)
    assert list(summary) == KEYS
    for key in ("metrics", "best", "model", "model_sha256", "rounds", "round_seconds"):
        assert summary[key] == only[key]
    assert summary["seconds"] == {"total": 10.0, "startup": 2.0, "training": 3.0}
    assert summary["roots"]["aggregator-0"]["model_sha256"] == "ab"
    assert (summary["status"], summary["error"], summary["workers"]) == ("completed", None, {"aggregator-0": "completed"})


def test_several_roots_are_combined(tmp_path):
    results = {"a-0": result(1.0, 100, [1.0, 5.0, 1.0], "bb"), "a-1": result(4.0, 300, [2.0, 3.0], "aa")}
    summary = build_summary(outcome(results=results), tmp_path / "checkpoints")
    assert summary["metrics"] == {"loss": pytest.approx(3.25)}
    assert summary["round_seconds"] == [2.0, 5.0, 1.0]
    assert summary["rounds"] == 3
    assert summary["model"] == str(tmp_path / "checkpoints")
    assert summary["model_sha256"] == hashlib.sha256(b"aa\nbb\n").hexdigest()
    assert summary["seconds"]["training"] == 7.0
    assert summary["best"] == {
        "round": None,
        "metrics": {"loss": pytest.approx(1.625)},
        "model": str(tmp_path / "checkpoints"),
        "model_sha256": combined_hash(["aaaa", "bbbb"]),
    }
    assert {root: value["metrics"] for root, value in summary["roots"].items()} == {"a-0": {"loss": 1.0}, "a-1": {"loss": 4.0}}


def test_a_metric_that_only_one_root_reports_is_its_own(tmp_path):
    results = {"a-0": {"metrics": {"loss": 1.0, "auc": 0.7}, "samples": 9}, "a-1": {"metrics": {"loss": 3.0}, "samples": 1}}
    assert build_summary(outcome(results=results), tmp_path)["metrics"] == {"loss": pytest.approx(1.2), "auc": pytest.approx(0.7)}


def test_roots_without_samples_count_alike(tmp_path):
    results = {"a-0": {"metrics": {"loss": 1.0}}, "a-1": {"metrics": {"loss": 3.0}}}
    assert build_summary(outcome(results=results), tmp_path)["metrics"] == {"loss": 2.0}


def test_a_missing_model_of_one_root_leaves_no_hash_of_the_whole(tmp_path):
    results = {"a-0": {"model_sha256": "aa"}, "a-1": {}}
    summary = build_summary(outcome(results=results), tmp_path)
    assert (summary["model"], summary["model_sha256"], summary["best"]) == (None, None, {})


def test_a_job_that_failed_before_its_first_round_has_a_whole_summary(tmp_path):
    failed = outcome(status="failed", error="boom", rounds=0, startup_seconds=None, training_seconds=None)
    summary = build_summary(failed, tmp_path)
    assert list(summary) == KEYS
    assert (summary["rounds"], summary["metrics"], summary["model"], summary["roots"]) == (0, {}, None, {})
    assert summary["seconds"] == {"total": 10.0, "startup": None, "training": None}


@given(st.lists(st.text("0123456789abcdef", min_size=64, max_size=64), min_size=1, max_size=5))
def test_the_combined_hash_does_not_depend_on_the_order(hashes):
    assert combined_hash(hashes) == combined_hash(reversed(hashes))
    assert combined_hash(hashes) != combined_hash([*hashes, hashes[0]])


def test_the_file_is_strict_json_and_replaces_an_old_one(tmp_path):
    path = tmp_path / "summary.json"
    path.write_text("old")
    write_summary(build_summary(outcome(results={"a-0": {"metrics": {"loss": float("nan")}}}), tmp_path), path)
    assert json.loads(path.read_text(), parse_constant=pytest.fail)["metrics"] == {"loss": "NaN"}


def test_a_failure_is_told_with_the_end_of_the_log(tmp_path):
    folder = RunFolder(tmp_path)
    folder.worker("trainer-0").mkdir(parents=True)
    folder.worker_log("trainer-0").write_text("".join(f"line {index}\n" for index in range(100)))
    text = failure_text("trainer-0 failed", ["trainer-0", "trainer-1"], folder)
    assert text.startswith("trainer-0 failed\nthe end of ")
    assert str(folder.worker_log("trainer-0")) in text
    assert "  line 99" in text
    assert "line 50" not in text
    assert "trainer-1 has written no log" in text
