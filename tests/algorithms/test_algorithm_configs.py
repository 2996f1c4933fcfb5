import importlib
import inspect
import re
from typing import Any, cast

import pytest
from omegaconf import OmegaConf

from flame_run.config.folder import conf_dir, options
from roles.catalogue import TRAITS
from roles.strategy import Strategy

FOLDER = conf_dir() / "algorithm"


def config(name: str) -> dict[str, Any]:
    content = OmegaConf.to_container(OmegaConf.load(FOLDER / f"{name}.yaml"), resolve=True)
    return cast("dict[str, Any]", content)


def class_of(target: str) -> type[Strategy]:
    module, _, name = target.rpartition(".")
    found: type[Strategy] = getattr(importlib.import_module(module), name)
    return found


NAMES = [name for name in options("algorithm") if "_target_" in config(name)]
"""All but the presets, which choose an algorithm and a part of another group."""
REQUIRED: dict[str, dict[str, Any]] = {"fedgft": {"sensitive_feature": 0}}
"""What only the user can say."""


def test_presets_are_no_algorithms_of_their_own() -> None:
    assert set(options("algorithm")) - set(NAMES) == {"dp", "fedbalancer", "oort"}


@pytest.mark.parametrize("name", NAMES)
def test_what_a_configuration_says_is_what_the_class_does_without_it(name: str) -> None:
    values = config(name)
    strategy = class_of(values.pop("_target_"))
    signature = inspect.signature(strategy)
    assert {key: each.default for key, each in signature.parameters.items()} == values
    assert all(each.kind is inspect.Parameter.KEYWORD_ONLY for each in signature.parameters.values())
    strategy(**{**values, **REQUIRED.get(name, {})})


@pytest.mark.parametrize("name", NAMES)
def test_the_catalogue_knows_the_needs_of_each_class(name: str) -> None:
    target = config(name)["_target_"]
    strategy = class_of(target)
    made = strategy(**REQUIRED.get(name, {}))
    assert strategy.traits is TRAITS[target]
    assert strategy.traits.asynchronous == (made.buffer(root=True) is not None)
    assert strategy.traits.groups == (strategy.down is not Strategy.down)
    assert strategy.traits.surveys == (strategy.surveyed is not Strategy.surveyed)
    assert strategy.__doc__


@pytest.mark.parametrize("name", NAMES)
def test_the_first_line_of_a_configuration_says_what_it_is_and_where_it_is_from(name: str) -> None:
    first = (FOLDER / f"{name}.yaml").read_text().splitlines()[0]
    assert first.startswith("# ")
    assert re.search(r"\([A-Z][\w ,.]+ 20\d\d\)", first)
