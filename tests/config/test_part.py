"""What a role gets of the configuration, and what a worker makes of it."""

import hydra
import pytest
from omegaconf import DictConfig

from flame_run.config.folder import conf_dir
from flame_run.config.groups import register
from flame_run.config.part import KEYS, fill, role_config
from flame_run.errors import InvalidConfig


def composed(*overrides: str) -> DictConfig:
    register()
    with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return hydra.compose("config", ["python_path=[]", *overrides])


def test_a_role_gets_its_own_hyperparameters_before_anything_refers_to_them() -> None:
    cfg = composed("+job.roles.trainer.hyperparameters.learningRate=0.5")
    assert role_config(cfg, "trainer")["model"]["module"]["learning_rate"] == 0.5
    assert role_config(cfg, "aggregator")["model"]["module"]["learning_rate"] == 0.03


def test_a_role_gets_its_own_number_of_threads() -> None:
    cfg = composed("+job.roles.trainer.threads=2")
    assert role_config(cfg, "trainer")["job"]["threads"] == 2
    assert role_config(cfg, "aggregator")["job"]["threads"] == 1


def test_everything_is_resolved_but_what_only_the_worker_knows() -> None:
    config = role_config(composed("job.name=${schema.name}"), "trainer")
    assert set(config) == set(KEYS)
    assert config["job"]["name"] == "two_tier"
    assert config["model"]["data"]["path"] == "${worker:dataset.path}"
    assert config["transport"]["backend"] == "auto"


def test_the_composed_configuration_is_left_alone() -> None:
    cfg = composed("+job.roles.trainer.hyperparameters.learningRate=0.5")
    role_config(cfg, "trainer")
    assert cfg.job.hyperparameters.learningRate == 0.03


def test_an_interpolation_that_leads_nowhere_is_a_problem_with_its_place() -> None:
    with pytest.raises(InvalidConfig, match=r"model\.module\.learning_rate"):
        role_config(composed("model.module.learning_rate=${job.hyperparameters.rate}"), "trainer")


def test_fill_keeps_types_alone_and_makes_text_inside_text() -> None:
    worker = {"index": 3, "name": "trainer-3", "dataset.path": None}
    value = {"a": ["${worker:index}", "part-${worker:index}-of-${worker:name}"], "b": "${worker:dataset.path}", "c": 1.5}
    assert fill(value, worker) == {"a": [3, "part-3-of-trainer-3"], "b": None, "c": 1.5}


def test_fill_names_a_key_that_the_worker_has_not() -> None:
    with pytest.raises(KeyError, match="shoe_size"):
        fill("${worker:shoe_size}", {})
