"""Sweeps over jobs: Hydra's launchers outside, ours inside."""

import json
from pathlib import Path
from typing import Any

import pytest

QUICK = ["job.hyperparameters.rounds=1", "+model.trainer.limit_train_batches=3", "tracking=none"]


def summaries(folder: Path) -> dict[str, Any]:
    return {path.parent.name: json.loads(path.read_text()) for path in folder.glob("multirun/*/*/*/summary.json")}


def test_a_sweep_over_rates_and_topologies_runs_each_in_its_own_folder(tmp_path: Path, flame_run: Any) -> None:
    run = flame_run("-m", "job.hyperparameters.learningRate=0.01,0.1", "schema=two_tier,hierarchical", *QUICK)
    assert run.process.returncode == 0, run.text + run.stderr
    found = summaries(tmp_path)
    assert sorted(found) == ["0", "1", "2", "3"]
    assert {summary["status"] for summary in found.values()} == {"completed"}
    assert [len(found[name]["workers"]) for name in sorted(found)] == [5, 7, 5, 7]
    # The same data and rate give the same model, flat or hierarchical, up to the rounding of sums.
    for flat, tree in (("0", "1"), ("2", "3")):
        assert found[flat]["metrics"]["loss"] == pytest.approx(found[tree]["metrics"]["loss"], abs=1e-6)
    assert found["0"]["metrics"]["loss"] != pytest.approx(found["2"]["metrics"]["loss"], abs=1e-3)


@pytest.mark.parametrize("outer", ["joblib", pytest.param("submitit_local", marks=pytest.mark.long)])
def test_other_outer_launchers_nest_ours(outer: str, tmp_path: Path, flame_run: Any) -> None:
    run = flame_run("-m", "job.seed=1,2", "experiment=smoke", f"hydra/launcher={outer}", *QUICK)
    assert run.process.returncode == 0, run.text + run.stderr
    assert {summary["status"] for summary in summaries(tmp_path).values()} == {"completed"}
    assert len(summaries(tmp_path)) == 2


def test_a_failed_run_fails_the_sweep_with_its_own_message(tmp_path: Path, flame_run: Any) -> None:
    (tmp_path / "picky.py").write_text(
        "from roles import Trainer\n"
        "class Picky(Trainer):\n"
        "    def train(self, task):\n"
        "        if self.context.settings.seed == 2:\n"
        "            raise ValueError('I do not like this seed')\n"
        "        return super().train(task)\n"
    )
    run = flame_run("-m", "job.seed=1,2", "experiment=smoke", "+job.code.trainer=picky.Picky", *QUICK)
    assert run.process.returncode == 1
    assert "ValueError: I do not like this seed" in run.stderr
    assert {name: summary["status"] for name, summary in summaries(tmp_path).items()} == {"0": "completed", "1": "failed"}


def test_an_option_that_does_not_exist_fails_the_sweep_as_invalid(flame_run: Any) -> None:
    run = flame_run("-m", "schema=two_tier,two_teir", *QUICK)
    assert run.process.returncode == 2
    assert "did you mean 'two_tier'" in run.stderr
