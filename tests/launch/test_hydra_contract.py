"""Hydra's own contract suite for launchers, run on `LocalLauncher`."""

import pytest
from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher
from hydra.test_utils.launcher_common_tests import IntegrationTestSuite, LauncherTestSuite


@pytest.mark.usefixtures("launcher_shim")
def test_the_plugin_manager_finds_the_launcher() -> None:
    assert "FlameRunLocalLauncher" in [each.__name__ for each in Plugins.instance().discover(Launcher)]


@pytest.mark.usefixtures("launcher_shim")
@pytest.mark.parametrize(("launcher_name", "overrides"), [("flame_run_local", [])])
class TestLocalLauncher(LauncherTestSuite):
    """Behaviour inside one process."""


@pytest.mark.usefixtures("launcher_shim")
@pytest.mark.parametrize(("task_launcher_cfg", "extra_flags"), [({}, ["-m", "hydra/launcher=flame_run_local"])])
class TestLocalLauncherIntegration(IntegrationTestSuite):
    """Behaviour of whole programs."""
