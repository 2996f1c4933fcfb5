"""Calls a function with the composed configuration, the way `hydra.main` does, and maps what Hydra refuses."""

import functools
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import hydra
import yaml
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from flame_run.config.folder import conf_dir
from flame_run.config.groups import register
from flame_run.config.hydra_errors import HydraRefusal, explain
from flame_run.errors import FlameRunError


def call_with_config(task: Callable[[DictConfig], Any], arguments: Sequence[str]) -> None:
    """Compose by the words of a command line (overrides and Hydra's own flags) and call `task`, or sweep over it with `-m`.

    Raises:
        InvalidConfig: Hydra would not compose it.
        FlameRunError: whatever `task` raises; of a sweep, the first run that failed.
    """
    register()
    raised: list[FlameRunError] = []
    began = False

    @functools.wraps(task)
    def guarded(cfg: DictConfig) -> Any:
        nonlocal began
        began = True
        try:
            return task(cfg)
        except FlameRunError as error:
            if HydraConfig.get().mode is RunMode.MULTIRUN:
                raise  # a sweep must hear of it
            raised.append(error)  # passed by, as Hydra would print a line of its own on it
            return None

    main = hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name="config")(guarded)
    try:
        with _as_command_line(arguments):
            main()
    except HydraRefusal as error:
        raise explain(error, arguments, _defaults()) from error
    except (ValueError, TypeError, yaml.YAMLError) as error:
        if began:
            raise
        # Hydra says some of what it refuses in Python's or YAML's own errors.
        raise explain(error, arguments, None) from error
    if raised:
        raise raised[0]


@contextmanager
def _as_command_line(arguments: Sequence[str]) -> Iterator[None]:
    """Hydra reads `sys.argv`, and lets exceptions through only with HYDRA_FULL_ERROR set."""
    argv, full_error = sys.argv, os.environ.get("HYDRA_FULL_ERROR")
    sys.argv = [argv[0], *arguments]
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        yield
    finally:
        sys.argv = argv
        if full_error is None:
            del os.environ["HYDRA_FULL_ERROR"]
        else:
            os.environ["HYDRA_FULL_ERROR"] = full_error


def _defaults() -> DictConfig | None:
    """The configuration without overrides: what the legal keys are."""
    with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return hydra.compose("config")
