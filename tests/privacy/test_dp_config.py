"""The preset `algorithm=dp`, and the defaults of `privacy=dp`."""

import inspect
from typing import Any

import hydra
import pytest
from hydra.utils import instantiate

from flame_run.config.folder import conf_dir
from flame_run.config.groups import register
from roles.privacy.dp import DifferentialPrivacy


def composed(*overrides: str) -> Any:
    register()
    with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return hydra.compose("config", [*overrides, "python_path=[]"])


def test_the_preset_is_federated_averaging_with_privacy() -> None:
    preset, spelled = composed("algorithm=dp", "privacy.clip=3"), composed("privacy=dp", "privacy.clip=3")
    assert (preset.algorithm, preset.privacy) == (spelled.algorithm, spelled.privacy)
    assert preset.privacy.clip == 3
    assert composed("algorithm=dp", "privacy=none").privacy != spelled.privacy


@pytest.mark.parametrize("words", [(), ("privacy.clip=inf", "privacy.noise_multiplier=0")])
def test_the_configuration_builds_the_class(words: tuple[str, ...]) -> None:
    assert isinstance(instantiate(composed("privacy=dp", *words).privacy), DifferentialPrivacy)


def test_the_defaults_of_the_configuration_are_those_of_the_class() -> None:
    keys = {name: value for name, value in composed("privacy=dp").privacy.items() if name != "_target_"}
    parameters = inspect.signature(DifferentialPrivacy).parameters
    assert keys == {name: parameter.default for name, parameter in parameters.items()}
