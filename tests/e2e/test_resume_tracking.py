"""A run that was killed and went on, as MLflow shows it: one run without a gap or a step that is there twice."""

import os
from pathlib import Path
from typing import Any

import pytest
from mlflow.tracking import MlflowClient

from tests import chaos_points as chaos

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:.*sqlalchemy.*", "ignore:The ``noload`` loader strategy")
ROUNDS = 4


def test_a_run_that_was_killed_is_one_continuous_run_with_every_step_once(tmp_path: Path, flame_run: Any) -> None:
    settings = ["experiment=smoke", f"job.hyperparameters.rounds={ROUNDS}", *chaos.code(trainer="Trainer")]
    fault = chaos.fault("trainer-0", "uploading", "everybody", tmp_path / "fault", round=3)
    path = os.pathsep.join([str(Path(chaos.__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    store = {"MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/mine.db"}
    killed = flame_run(*settings, "hydra.run.dir=here", env={**chaos.environment(fault), "PYTHONPATH": path, **store})
    assert killed.process.returncode < 0, killed.text + killed.stderr
    # The variable is not set any more: the run stays where it was.
    run = flame_run("resume", "here", env={"PYTHONPATH": path})
    assert run.process.returncode == 0, run.text + run.stderr
    assert not (tmp_path / "mlflow.db").exists()

    client = MlflowClient(store["MLFLOW_TRACKING_URI"])
    experiment = client.get_experiment_by_name("smoke")
    assert experiment is not None
    found = client.search_runs([experiment.experiment_id])
    parent = next(each for each in found if "mlflow.parentRunId" not in each.data.tags)
    children = {each.data.tags["worker"]: each for each in found if each is not parent}
    assert sorted(children) == ["aggregator-0", "trainer-0", "trainer-1"]
    assert {each.info.status for each in found} == {"FINISHED"}
    for each, name in ((parent, "accuracy"), (parent, "round_seconds"), (children["aggregator-0"], "loss"),
                       (children["trainer-0"], "fit_seconds"), (children["trainer-1"], "train_loss")):  # fmt: skip
        assert sorted(value.step for value in client.get_metric_history(each.info.run_id, name)) == list(range(1, ROUNDS + 1))
    reported = {
        record["round"]: record["value"]
        for record in run.records("metrics.jsonl")
        if (record["worker"], record["name"]) == ("aggregator-0", "accuracy")
    }
    assert {value.step: value.value for value in client.get_metric_history(parent.info.run_id, "accuracy")} == reported
    assert parent.data.tags["model_sha256"] == run.json("summary.json")["model_sha256"]
