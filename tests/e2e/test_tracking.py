"""A run as MLflow shows it."""

from pathlib import Path
from typing import Any

import pytest
import torch
from mlflow.tracking import MlflowClient

from flame_run import load_model

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:.*sqlalchemy.*", "ignore:The ``noload`` loader strategy")


def test_mlflow_has_the_run_its_workers_its_metrics_and_both_models(tmp_path: Path, flame_run: Any) -> None:
    run = flame_run("experiment=smoke", "job.hyperparameters.rounds=2")
    assert run.process.returncode == 0, run.text + run.stderr
    assert f"mlflow ui --backend-store-uri sqlite:///{tmp_path}/mlflow.db" in run.text
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    experiment = client.get_experiment_by_name("smoke")
    assert experiment is not None
    found = client.search_runs([experiment.experiment_id])
    parent = next(each for each in found if "mlflow.parentRunId" not in each.data.tags)
    children = [each for each in found if each.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    assert sorted(each.data.tags["worker"] for each in children) == ["aggregator-0", "trainer-0", "trainer-1"]
    assert {each.info.status for each in found} == {"FINISHED"}
    assert parent.data.params["job.hyperparameters.rounds"] == "2"
    reported = {
        (record["name"], record["round"]): record["value"]
        for record in run.records("metrics.jsonl")
        if record["worker"] == "aggregator-0"
    }
    for name in ("loss", "accuracy", "round_seconds"):
        history = {(name, each.step): each.value for each in client.get_metric_history(parent.info.run_id, name)}
        assert history == {key: value for key, value in reported.items() if key[0] == name}
    names = {model.name for model in client.search_logged_models([experiment.experiment_id])}
    assert names == {"best", "last"}


def test_the_best_and_the_last_model_come_back_in_three_lines(flame_run: Any) -> None:
    run = flame_run("experiment=smoke", "tracking=none")
    for which in ("best", "last"):
        model = load_model(run.folder, which)
        assert model(torch.zeros(2, 1, 28, 28)).shape == (2, 10)
        state = torch.load(run.folder / "checkpoints" / f"{which}.pt", weights_only=True)
        assert all(torch.equal(model.state_dict()[name], value) for name, value in state.items())
