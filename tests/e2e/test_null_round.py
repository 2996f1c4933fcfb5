"""The null job: trainers that return the weights as they came."""

from pathlib import Path
from typing import Any

import pytest
import torch

from flame_run.cli import main
from flame_run.models import NullModel

NULL = ["experiment=null_round", "null_round.trainers=3", "job.hyperparameters.rounds=3"]


@pytest.mark.parametrize("transport", ["shm", "grpc"])
def test_the_model_comes_out_as_it_went_in_to_the_bit(transport: str, tmp_path: Path, flame_run: Any) -> None:
    run = flame_run(*NULL, "null_round.megabytes=5", f"transport={transport}")
    assert run.process.returncode == 0, run.text + run.stderr
    summary = run.json("summary.json")
    assert (summary["status"], summary["rounds"], len(summary["round_seconds"])) == ("completed", 3, 3)
    assert summary["workers"] == dict.fromkeys(("trainer-0", "trainer-1", "trainer-2", "aggregator-0"), "completed")
    found = torch.load(summary["model"], weights_only=True)
    expected = NullModel(5).state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_nothing_is_evaluated_stored_or_tracked_on_the_way(tmp_path: Path, flame_run: Any) -> None:
    run = flame_run(*NULL, "null_round.megabytes=0.5")
    assert run.process.returncode == 0, run.text + run.stderr
    assert [path.name for path in (run.folder / "checkpoints").glob("*.pt")] == ["last.pt"]
    assert run.json("summary.json")["metrics"] == {}
    names = {record["name"] for record in run.records("metrics.jsonl")}
    assert "round_seconds" in names
    assert not names & {"loss", "accuracy", "evaluate_seconds", "checkpoint_seconds", "fit_seconds"}
    assert not (tmp_path / "mlflow.db").exists()


def test_null_trainers_work_under_a_coordinator_and_as_threads_of_one_process(flame_run: Any) -> None:
    words = ["experiment=mnist_coordinated", "job.hyperparameters.rounds=2", "job.evaluate.every=0", "tracking=none"]
    run = flame_run(*words, "+job.code.trainer=roles.NullTrainer", "launcher=debug")
    assert run.process.returncode == 0, run.text + run.stderr
    assert run.json("summary.json")["rounds"] == 2


@pytest.mark.parametrize("megabytes", [1e-6, 0.25, 1, 4, 5.0009765625, 9])
def test_the_parameters_are_as_large_as_asked_for(megabytes: float) -> None:
    parameters = list(NullModel(megabytes).parameters())
    assert 4 * sum(each.numel() for each in parameters) == max(4, int(megabytes * 2**20) // 4 * 4)
    assert all(each.dtype == torch.float32 and torch.isfinite(each).all() for each in parameters)


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["experiment=null_round", "null_round.megabytes=0"], "null_round.megabytes = 0.0: a model has a size above 0"),
        (["experiment=null_round", "null_round.megabytes=nan"], "null_round.megabytes = nan: a model has a size above 0"),
        (["experiment=null_round", "null_round.trainers=0"], "null_round.trainers = 0: there must be at least one"),
        (["null_round.trainers=2"], "null_round.trainers = 2: read by experiment=null_round only"),
        (["null_round.megabytes=5"], "null_round.megabytes = 5.0: read by experiment=null_round only"),
        (["experiment=null_round", "null_round.trainer=2"], "null_round has no key 'trainer'"),
    ],
)
def test_what_cannot_be_is_said_before_anything_starts(
    words: list[str], complaint: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["plan", *words]) == 2
    assert complaint in capsys.readouterr().err
