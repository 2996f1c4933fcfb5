"""Plans of configurations as the command line composes them."""

import hydra
import pytest
from hydra.core.global_hydra import GlobalHydra

from flame_run.config.folder import conf_dir
from flame_run.config.groups import register
from flame_run.errors import InvalidConfig
from flame_run.run.checks import plan_of
from flame_run.topology.plan import Plan


def plan(*overrides: str) -> Plan:
    register()
    GlobalHydra.instance().clear()
    with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
        listed = any(override.startswith("python_path=") for override in overrides)
        return plan_of(hydra.compose("config", [*([] if listed else ["python_path=[]"]), *overrides]))


def problems(*overrides: str) -> list[str]:
    """All that is wrong, each as its sentence."""
    with pytest.raises(InvalidConfig) as caught:
        plan(*overrides)
    assert caught.value.exit_status == 2
    return [str(problem) for problem in caught.value.problems]
