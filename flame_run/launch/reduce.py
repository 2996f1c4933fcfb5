"""What a worker is given of the configuration: what its task reads and no more, as every process unpickles and copies it."""

import re
from collections.abc import Collection

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.config_search_path import ConfigSearchPath
from omegaconf import DictConfig, OmegaConf, open_dict, read_write
from typing_extensions import override

_REFERENCE = re.compile(r"\$\{\.*([^.}:\[]+)")
"""The first name of an interpolation: a node at the top, or (relative ones, resolvers) something else that is none."""


class ReducingConfigLoader(ConfigLoaderImpl):
    """Composes jobs as Hydra does, and then leaves out what their task function does not read.

    Args:
        search_path: of the application's own loader.
        nodes: names of the nodes at the top of the configuration that stay, beside `hydra` and what they refer to.

    """

    def __init__(self, search_path: ConfigSearchPath, nodes: Collection[str]) -> None:
        super().__init__(search_path)
        self._nodes = frozenset(nodes)

    @override
    def load_sweep_config(self, master_config: DictConfig, sweep_overrides: list[str]) -> DictConfig:
        config = super().load_sweep_config(master_config, sweep_overrides)
        reduce(config, self._nodes)
        return config


def reduce(config: DictConfig, nodes: Collection[str]) -> None:
    """Remove from `config` all nodes at the top but `hydra`, `nodes` and whatever these refer to."""
    needed, found = {"hydra", *nodes}, set[str]()
    while new := needed - found:
        found |= new
        for name in new & config.keys():
            node = config._get_node(name)  # noqa: SLF001 - asking for the value would resolve an interpolation
            text = OmegaConf.to_container(node, resolve=False) if OmegaConf.is_config(node) else node
            needed |= {reference for reference in _REFERENCE.findall(str(text)) if reference in config}
    with read_write(config), open_dict(config):
        for surplus in config.keys() - needed:
            del config[surplus]
