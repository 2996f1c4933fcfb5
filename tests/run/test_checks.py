"""What is checked of the composed configuration beyond the documents."""

from pathlib import Path

import hydra
import pytest
from omegaconf import DictConfig

from flame_run.config.folder import conf_dir
from flame_run.config.groups import register
from flame_run.errors import InvalidConfig
from flame_run.run.checks import plan_of


def composed(*overrides: str) -> DictConfig:
    register()
    with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return hydra.compose("config", ["python_path=[]", *overrides])


def problems(*overrides: str) -> dict[str, str]:
    with pytest.raises(InvalidConfig) as caught:
        plan_of(composed(*overrides))
    return {problem.place: str(problem) for problem in caught.value.problems}


def test_the_defaults_are_valid() -> None:
    assert len(plan_of(composed()).workers) == 5


def test_everything_wrong_is_reported_at_once(tmp_path: Path) -> None:
    (tmp_path / "broken.json").write_text('{"datasets": [],}')
    found = problems(
        f"dataset_file={tmp_path}/broken.json", "job.hyperparameters.rounds=0", "checkpoint.keep=0", "transport.chunk_bytes=0",
        "transport.backend=inproc", "faults.on_worker_loss=hope", "faults.min_ends=1.5", "job.baseModel={path: nowhere.pt}",
        "model.module=null", "python_path=[/no/such/folder]",
    )  # fmt: skip
    assert set(found) == {
        "dataset_file", "job.hyperparameters.rounds", "checkpoint.keep", "transport.chunk_bytes", "transport.backend",
        "faults.on_worker_loss", "faults.min_ends", "job.baseModel.path", "model.module", "python_path",
    }  # fmt: skip
    assert "trailing comma" in found["dataset_file"]


def test_threads_of_one_process_have_no_use_for_a_network() -> None:
    assert "launcher=debug" in problems("launcher=debug", "transport=grpc")["transport.backend"]
    assert plan_of(composed("launcher=debug", "transport=inproc"))


@pytest.mark.parametrize("job", ["job.baseModel=text", "job.stop=3"])
def test_a_document_of_the_wrong_shape_is_a_problem_not_a_crash(job: str) -> None:
    assert all(place.startswith("job") for place in problems(job))


def test_a_document_with_an_interpolation_that_leads_nowhere_is_a_problem() -> None:
    assert "nome" in problems("job.name=${job.nome}")["job.name"]


def test_a_typo_in_a_target_is_told_before_anything_starts() -> None:
    found = problems("model.module._target_=flame_run.models.mnist.MnistCCN", "algorithm._target_=roles.algorithms.fedavg.FedAvgg")
    assert "MnistCNN" in found["model.module._target_"]
    assert "FedAvg" in found["algorithm._target_"]


def test_local_epochs_are_the_jobs_to_say() -> None:
    assert "job.hyperparameters.epochs" in problems("+model.trainer.max_epochs=3")["model.trainer.max_epochs"]


def test_trainers_need_data_and_classes_what_they_live_on() -> None:
    assert "trainer" in problems("model.data=null")["model.data"]
    assert "distribute and aggregate" in problems("+job.code.trainer=roles.Aggregator")["schema.roles[0] (role trainer)"]


def test_a_number_that_is_none_is_a_problem() -> None:
    found = problems("job.hyperparameters.learningRate=nan", "job.stop.target=inf")
    assert {"job.hyperparameters.learningRate", "job.stop.target"} <= set(found)
    assert "not a finite number" in found["job.stop.target"]
