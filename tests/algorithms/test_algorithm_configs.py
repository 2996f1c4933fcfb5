import importlib
import inspect
from pathlib import Path
from typing import Any, cast

import pytest
from omegaconf import OmegaConf

from roles.catalogue import TRAITS
from roles.strategy import Strategy

FOLDER = Path(__file__).parents[2] / "conf" / "algorithm"
NAMES = (
    "fedavg",
    "fedavgm",
    "fedadam",
    "fedyogi",
    "fedadagrad",
    "fedprox",
    "scaffold",
    "feddyn",
    "fednova",
    "fedbuff",
    "fedasync",
)


def config(name: str) -> dict[str, Any]:
    content = OmegaConf.to_container(OmegaConf.load(FOLDER / f"{name}.yaml"), resolve=True)
    return cast("dict[str, Any]", content)


def class_of(target: str) -> type[Strategy]:
    module, _, name = target.rpartition(".")
    found: type[Strategy] = getattr(importlib.import_module(module), name)
    return found


@pytest.mark.parametrize("name", NAMES)
def test_what_a_configuration_says_is_what_the_class_does_without_it(name: str) -> None:
    values = config(name)
    strategy = class_of(values.pop("_target_"))
    signature = inspect.signature(strategy)
    assert {key: each.default for key, each in signature.parameters.items()} == values
    assert all(each.kind is inspect.Parameter.KEYWORD_ONLY for each in signature.parameters.values())
    strategy(**values)


@pytest.mark.parametrize("name", NAMES)
def test_the_catalogue_knows_the_needs_of_each_class(name: str) -> None:
    target = config(name)["_target_"]
    strategy = class_of(target)
    assert strategy.traits is TRAITS[target]
    assert strategy.traits.asynchronous == (strategy().buffer(root=True) is not None)
    assert strategy.traits.groups == (type(strategy()).down is not Strategy.down)
    assert strategy.__doc__


@pytest.mark.parametrize("name", NAMES)
def test_the_first_line_of_a_configuration_says_what_it_is_and_where_it_is_from(name: str) -> None:
    first = (FOLDER / f"{name}.yaml").read_text().splitlines()[0]
    assert first.startswith("# ")
    assert "et al. 20" in first
