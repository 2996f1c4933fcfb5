"""Whether the values of the group `launcher` can be what they are meant to be, before anything is started. No torch here."""

import importlib.util
import math
from collections.abc import Iterator, Mapping
from typing import Any, Final

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from flame_run.errors import Problem
from flame_run.launch.config import CohortConf, DebugConf, ExternalConf, LocalConf

_TYPES: Final = {str(conf._target_): conf for conf in (LocalConf, CohortConf, DebugConf, ExternalConf)}
_NUMBERS: Final = {"JoblibLauncher": ("n_jobs",), "SlurmLauncher": ("array_parallelism",)}
"""Class of a plugin -> its keys that a job's size depends on."""


def check_launcher(launcher: DictConfig) -> list[Problem]:
    """What is wrong with the node `launcher`."""
    target = str(launcher.get("_target_", ""))
    if target not in _TYPES:
        return list(_whole_numbers(launcher, _NUMBERS.get(target.rpartition(".")[2], ())))
    problems = [problem for key in launcher if (problem := _mistyped(launcher, str(key), _TYPES[target])) is not None]
    return problems or list(_out_of_range(OmegaConf.to_container(launcher, resolve=True)))  # type: ignore[arg-type]


def _mistyped(launcher: DictConfig, key: str, conf: type) -> Problem | None:
    try:
        OmegaConf.merge(OmegaConf.structured(conf), {key: launcher[key]})
    except OmegaConfBaseException as error:
        known = ", ".join(name for name in OmegaConf.structured(conf) if name != "_target_")
        return Problem(f"launcher.{key}", _plain(launcher, key), str(error).splitlines()[0], f"keys: {known}")
    return None


def _out_of_range(options: Mapping[str, Any]) -> Iterator[Problem]:
    processes, seconds = options.get("processes"), options.get("import_timeout")
    if processes is not None and int(processes) < 1:
        yield Problem("launcher.processes", processes, "must be at least 1", "null: one for each core")
    if seconds is not None and not 0 < float(seconds) < math.inf:
        yield Problem("launcher.import_timeout", seconds, "not a time to wait", "seconds above 0")
    patience = options.get("turn_warning")
    if patience is not None and not 0 < float(patience) < math.inf:
        yield Problem("launcher.turn_warning", patience, "not a time to wait", "seconds above 0; null: no warning")
    for at, module in enumerate(options.get("preload") or ()):
        if importlib.util.find_spec(module.partition(".")[0]) is None:
            yield Problem(f"launcher.preload[{at}]", module, "there is no such module", "modules that can be imported")


def _whole_numbers(launcher: DictConfig, keys: tuple[str, ...]) -> Iterator[Problem]:
    for key in keys:
        value = launcher.get(key)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
            yield Problem(f"launcher.{key}", _plain(launcher, key), "not a whole number", "null, or a whole number")


def _plain(launcher: DictConfig, key: str) -> object:
    value = launcher[key]
    return OmegaConf.to_container(value) if OmegaConf.is_config(value) else value
