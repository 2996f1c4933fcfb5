"""Parameters of a run: its configuration, one text per leaf."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from flame_run.track.names import MAX_KEY, MAX_VALUE, legal_name

LEFT_OUT = frozenset({"worker"})
"""Groups that say nothing about the job."""


def run_parameters(path: Path) -> dict[str, str]:
    """Return the parameters of the job whose configuration was saved in `path`: `group.key.subkey` -> text.

    Values are resolved; what only a worker can resolve, such as `${worker:name}`, stays as it was written. Lists are one
    JSON text. Keys and values are cut to what MLflow takes. Without a saved configuration there are none.
    """
    if not path.is_file():
        return {}
    config = OmegaConf.load(path)
    if not isinstance(config, DictConfig):
        return {}
    return {key[:MAX_KEY]: text[:MAX_VALUE] for key, text in _leaves(config, "") if key.split(".")[0] not in LEFT_OUT}


def _leaves(config: DictConfig, prefix: str) -> Iterator[tuple[str, str]]:
    raw = OmegaConf.to_container(config, resolve=False)
    assert isinstance(raw, dict)
    for name, written in raw.items():
        key = f"{prefix}{legal_name(str(name))}"
        try:
            value = config[name]
            if isinstance(value, DictConfig):
                yield from _leaves(value, f"{key}.")
            else:
                yield key, _text(OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value)
        except OmegaConfBaseException:
            yield key, _text(written)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)
