"""`algorithm=oort`, `algorithm=fedbalancer` and the groups `selector` and `sampler` as a user chooses them."""

import json
import subprocess
import sys
from typing import Any

import hydra
import pytest
from hydra.utils import instantiate
from omegaconf import DictConfig

from flame_run.config.folder import conf_dir
from flame_run.config.groups import register
from roles.algorithms.fedavg import FedAvg
from roles.catalogue import TRAITS
from roles.samplers.fedbalancer import FedBalancer
from roles.selectors.choice import PowerOfChoice
from roles.selectors.oort import Oort
from roles.selectors.selector import Selector
from roles.selectors.trace import Trace
from roles.selectors.uniform import Random

FEDAVG = "roles.algorithms.fedavg.FedAvg"


def composed(*overrides: str) -> DictConfig:
    register()
    with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return hydra.compose("config", [*overrides])


def targets(*overrides: str) -> tuple[str, str, str]:
    """Algorithm, selector and sampler."""
    cfg = composed(*overrides)
    return cfg.algorithm._target_, cfg.selector._target_.rpartition(".")[2], cfg.sampler._target_.rpartition(".")[2]


def test_a_preset_is_fedavg_with_a_selector_or_a_sampler() -> None:
    assert targets("algorithm=oort") == (FEDAVG, "Oort", "All")
    assert targets("algorithm=fedbalancer") == (FEDAVG, "All", "FedBalancer")


@pytest.mark.parametrize("order", [("algorithm=oort", "selector=random"), ("selector=random", "algorithm=oort")])
def test_what_is_chosen_on_the_same_command_line_goes_before_a_preset(order: tuple[str, str]) -> None:
    assert targets(*order) == (FEDAVG, "Random", "All")


def test_a_preset_can_be_tuned_and_joined_with_others() -> None:
    assert composed("algorithm=oort", "selector.k=3").selector.k == 3
    assert targets("algorithm=oort", "sampler=fedbalancer") == (FEDAVG, "Oort", "FedBalancer")


@pytest.mark.parametrize(
    ("overrides", "kind", "values"),
    [
        (["selector=random"], Random, {"k": 0.1}),
        (["selector=random", "selector.k=7"], Random, {"k": 7}),
        (["selector=power_of_choice"], PowerOfChoice, {"m": 0.1, "d": 0.2}),
        (["selector=oort"], Oort, {"k": 10, "alpha": 2.0, "pacer_step": 20, "blacklist_rounds": None}),
        (["selector=trace", "selector.intervals={trainer-0:[[1,5],[9,null]],trainer-1:[3]}"], Trace, {"unlisted": True}),
    ],
)
def test_a_selector_is_made_from_its_group(overrides: list[str], kind: type[Selector], values: dict[str, Any]) -> None:
    selector = instantiate(composed(*overrides).selector)
    assert type(selector) is kind
    assert {name: getattr(selector, name) for name in values} == values
    assert selector.traits == TRAITS[f"{kind.__module__}.{kind.__qualname__}"]


def test_defaults_of_the_configuration_are_those_of_the_classes() -> None:
    assert vars(instantiate(composed("selector=oort").selector)) == vars(Oort())
    assert vars(instantiate(composed("sampler=fedbalancer").sampler)) == vars(FedBalancer())


def test_a_trace_takes_its_inner_selector_by_its_target() -> None:
    inner = "selector.inner={_target_:roles.selectors.uniform.Random,k:2}"
    selector = instantiate(composed("selector=trace", "selector.intervals={}", inner).selector)
    assert isinstance(selector.inner, Random)
    assert selector.inner.k == 2


def test_the_algorithm_of_a_preset_is_plain_averaging() -> None:
    assert isinstance(instantiate(composed("algorithm=fedbalancer").algorithm), FedAvg)


@pytest.mark.parametrize("preset", ["oort", "fedbalancer"])
def test_a_plan_with_a_preset_is_valid(preset: str) -> None:
    command = [sys.executable, "-m", "flame_run", "plan", f"algorithm={preset}", "--json"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert len(json.loads(result.stdout)["workers"]) == 5
