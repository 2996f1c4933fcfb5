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

from flame_run.config.folder import conf_dir, groups, options
from flame_run.config.groups import register
from flame_run.config.hydra_errors import HydraRefusal, explain
from flame_run.errors import FlameRunError, Interrupted, InvalidConfig, Problem


def call_with_config(task: Callable[[DictConfig], Any], arguments: Sequence[str], hidden: Sequence[str] = ()) -> None:
    """Compose by the words of a command line (overrides and Hydra's own flags) and call `task`, or sweep over it with `-m`.

    `hidden` are overrides of our own, of which no message speaks.

    Raises:
        InvalidConfig: Hydra would not compose it.
        FlameRunError: whatever `task` raises; of a sweep, the first run that failed.
    """
    register()
    guard = _Guard(task)
    main = hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name="config")(guard.wrapped())
    with guard.explained(arguments), _as_command_line([*arguments, *hidden]):
        main()
    if guard.raised is not None:
        raise guard.raised


class _Guard:
    """Carries what a task raises past Hydra, which would print lines of its own on it, and explains what Hydra refuses."""

    def __init__(self, task: Callable[[DictConfig], Any]) -> None:
        self._task = task
        self._began = False
        self.raised: FlameRunError | None = None

    def wrapped(self) -> Callable[[DictConfig], Any]:
        """The task as Hydra gets it."""

        @functools.wraps(self._task)
        def guarded(cfg: DictConfig) -> Any:
            self._began = True
            try:
                return self._task(cfg)
            except Interrupted as error:
                self.raised = error
                raise KeyboardInterrupt from error  # any other error ends one run of a sweep, not the sweep
            except FlameRunError as error:
                if HydraConfig.get().mode is RunMode.MULTIRUN:
                    raise  # a sweep must hear of it
                self.raised = error
                return None

        return guarded

    @contextmanager
    def explained(self, arguments: Sequence[str]) -> Iterator[None]:
        """Map what Hydra says in its own, Python's or YAML's errors before the task begins."""
        try:
            yield
        except HydraRefusal as error:
            raise explain(error, arguments, _unspoilt(arguments)) from error
        except KeyboardInterrupt:
            if self.raised is None:
                raise
        except (OSError, ValueError, TypeError, yaml.YAMLError) as error:
            if self._began:
                raise
            if isinstance(error, OSError):
                reason = f"the run folder cannot be made: {error.strerror}"
                raise InvalidConfig([Problem("hydra.run.dir", error.filename or "", reason)]) from error
            raise explain(error, arguments, None) from error


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


def _unspoilt(arguments: Sequence[str]) -> DictConfig:
    """The configuration with no overrides but choices of shipped options: what the legal keys are."""
    pairs = [(word, *word.partition("=")[::2]) for word in arguments]
    choices = [word for word, group, option in pairs if group in groups() and option in options(group)]
    with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
        try:
            return hydra.compose("config", choices)
        except HydraRefusal:
            return hydra.compose("config")  # what is refused is in the choices themselves
