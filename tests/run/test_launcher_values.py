"""Values of the launcher and options for Lightning's Trainer that cannot be: told before anything is started."""

import inspect

import pytest
from lightning.pytorch import Trainer

from flame_run.run.checks import plan_of
from flame_run.run.trainer_options import NAMES, check_trainer
from tests.run.test_checks import composed, problems


def test_the_options_of_a_trainer_are_those_that_lightning_has() -> None:
    assert set(inspect.signature(Trainer).parameters) == NAMES


@pytest.mark.parametrize(
    ("override", "place", "text"),
    [
        ("launcher.processes=abc", "launcher.processes", "Integer"),
        ("launcher.processes=[1,2]", "launcher.processes", "Integer"),
        ("launcher.processes=''", "launcher.processes", "Integer"),
        ("launcher.processes=2.5", "launcher.processes", "Integer"),
        ("launcher.processes=true", "launcher.processes", "Integer"),
        ("launcher.turn_warning=0", "launcher.turn_warning", "seconds above 0"),
        ("launcher.turn_warning=inf", "launcher.turn_warning", "seconds above 0"),
        ("launcher.processes=0", "launcher.processes", "at least 1"),
        ("launcher.import_timeout=soon", "launcher.import_timeout", "Float"),
        ("launcher.import_timeout=-1", "launcher.import_timeout", "seconds above 0"),
        ("launcher.import_timeout=inf", "launcher.import_timeout", "seconds above 0"),
        ("launcher.import_timeout=nan", "launcher.import_timeout", "seconds above 0"),
        ("launcher.preload=[nosuchmodule.part]", "launcher.preload[0]", "no such module"),
        ("launcher.preload=torch", "launcher.preload", "keys: processes, preload, import_timeout, turn_warning"),
        ("transport.chunk_bytes=99999999", "transport.chunk_bytes", "up to 16777216"),
    ],
)
def test_a_value_that_cannot_be_is_a_problem_with_its_place(override: str, place: str, text: str) -> None:
    assert text in problems("launcher=cohort", override)[place]


@pytest.mark.parametrize("name", ["local", "cohort", "debug", "external", "joblib", "submitit_local"])
def test_every_choice_of_the_launcher_is_valid_as_it_is(name: str) -> None:
    assert plan_of(composed(f"launcher={name}"))


@pytest.mark.parametrize("value", ["abc", "true", "1.5"])
def test_the_number_of_processes_of_joblib_is_a_whole_number(value: str) -> None:
    assert "whole number" in problems("launcher=joblib", f"launcher.n_jobs={value}")["launcher.n_jobs"]


def test_an_option_that_lightning_does_not_have_is_told_with_those_like_it() -> None:
    found = problems("+model.trainer.gradient_clip_vall=1")
    assert "gradient_clip_val" in found["model.trainer.gradient_clip_vall"]


@pytest.mark.parametrize(
    ("options", "places"),
    [
        ({"devices": 2}, ["devices"]),
        ({"devices": "2"}, ["devices"]),
        ({"devices": -1}, ["devices"]),
        ({"devices": "auto"}, ["devices"]),
        ({"devices": [0, 1]}, ["devices"]),
        ({"devices": [-1]}, ["devices"]),
        ({"devices": "0,1"}, ["devices"]),
        ({"num_nodes": 2}, ["num_nodes"]),
        ({"strategy": "ddp_spawn"}, ["strategy"]),
        ({"max_epochs": 3}, ["max_epochs"]),
        ({"devices": 1, "num_nodes": 1, "strategy": "auto"}, []),
        ({"devices": [1], "accelerator": "gpu"}, []),
        ({"devices": "1,"}, []),
        ({"strategy": {"_target_": "lightning.pytorch.strategies.SingleDeviceStrategy"}}, []),
        ({"limit_train_batches": 2}, []),
    ],
)
def test_a_worker_trains_on_one_device_in_one_process(options: dict[str, object], places: list[str]) -> None:
    assert [problem.place for problem in check_trainer(options, "model.trainer")] == [f"model.trainer.{each}" for each in places]
