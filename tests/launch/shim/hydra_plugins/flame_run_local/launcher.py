"""Hydra's plugin manager takes launchers from this namespace only; the product itself ships no plugin."""

from dataclasses import dataclass, field

from hydra.core.config_store import ConfigStore

from flame_run.launch.local import LocalLauncher


class FlameRunLocalLauncher(LocalLauncher):
    """The launcher of the product under a name that the plugin manager accepts."""


@dataclass
class FlameRunLocalConf:
    _target_: str = "hydra_plugins.flame_run_local.launcher.FlameRunLocalLauncher"
    preload: list[str] = field(default_factory=list)


ConfigStore.instance().store(group="hydra/launcher", name="flame_run_local", node=FlameRunLocalConf, provider="flame_run")
