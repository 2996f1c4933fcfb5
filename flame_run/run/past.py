"""What a run folder tells of a run so far: how it was configured, how far it came, who may still be there."""

import json
import os
import select
import socket
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from flame_run.errors import InvalidConfig, Problem
from flame_run.launch.workers import of_the_workers, quote
from flame_run.run.folder import RunFolder
from flame_run.run.records import read_tasks

LINGER = 15.0
"""Seconds that workers of a runner that is gone get to be gone, too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Past:
    """A run that is not going on now."""

    folder: RunFolder
    cwd: Path
    """Where it was started."""
    words: tuple[str, ...]
    """The words of a command line that compose its configuration."""
    config: DictConfig
    """As it was composed, interpolations as they were written."""
    plan: Mapping[str, Any]
    """The content of `plan.json`."""
    summary: Mapping[str, Any] | None

    @property
    def completed(self) -> bool:
        """Whether the job had come to its end."""
        return self.summary is not None and self.summary.get("status") == "completed"


def read_past(folder: RunFolder) -> Past:
    """Read what the folder holds.

    Raises:
        InvalidConfig: it is no run folder, or its run never got as far as having a configuration.
    """
    if not folder.path.is_dir():
        raise _no(folder, "there is no such folder")
    if not folder.tasks.is_file():
        raise _no(folder, f"it is no run folder: it has no {folder.tasks.name}")
    try:
        config = OmegaConf.load(folder.config)
        # Overrides are texts, also those that hold an interpolation.
        hydra = yaml.safe_load((folder.hydra / "hydra.yaml").read_text(encoding="utf-8"))["hydra"]
        plan = json.loads(folder.plan.read_text(encoding="utf-8"))
        cwd = Path(hydra["runtime"]["cwd"])
        words = _words(hydra, str(plan["job"]["id"]))
    except FileNotFoundError as error:
        raise _no(folder, f"its run ended before it began: there is no {error.filename}") from error
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError, OmegaConfBaseException) as error:
        raise _no(folder, f"its configuration cannot be read: {str(error).splitlines()[0]}") from error
    if not isinstance(config, DictConfig):
        raise _no(folder, f"{folder.config} is no configuration")
    if not cwd.is_dir():
        raise _no(folder, f"it was started in {cwd}, and there is no such folder any more")
    return Past(folder=folder, cwd=cwd, words=tuple(words), config=config, plan=plan, summary=folder.read_summary())


def await_workers_gone(folder: RunFolder, timeout: float = LINGER) -> None:
    """Wait until no worker of the run is left on this machine: they may be still about to notice that their runner is gone.

    Raises:
        InvalidConfig: one is still there after `timeout` seconds.
    """
    here = socket.gethostname()
    known = {record.pid: record for record in read_tasks(folder.tasks) if record.pid is not None and record.host in (here, None)}
    for pid, record in known.items():
        if pid == os.getpid():
            continue
        with suppress(psutil.NoSuchProcess, ProcessLookupError):
            # A process that began after the record was written only has the same number.
            if psutil.Process(pid).create_time() > record.time + 1.0:
                continue
            with os.fdopen(os.pidfd_open(pid), "rb", buffering=0) as process:
                if not select.select([process], [], [], timeout)[0]:
                    raise _no(folder, f"waited {timeout:g} s for {record.worker} (process {pid}) of the run to end; it has not")


def seconds_so_far(folder: RunFolder) -> float:
    """Seconds that the run took so far, without the time between its parts; a part begins with workers that are ready."""
    total, begin, last = 0.0, None, 0.0
    for record in read_tasks(folder.tasks):
        if begin is None or (record.state == "ready" and record.round is None and record.time - last > 1.0):
            total += 0.0 if begin is None else last - begin
            begin = record.time
        last = record.time
    return total + (0.0 if begin is None else last - begin)


def _words(hydra: Mapping[str, Any], job_id: str) -> list[str]:
    """The command line of a run: its overrides, those of Hydra itself that are not about the folder, and its own sources."""
    task, own = list(hydra["overrides"]["task"]), list(hydra["overrides"]["hydra"])
    words = [*of_the_workers(own), *(word for word in task if not word.startswith("job.id=")), f"job.id={quote(job_id)}"]
    name = hydra["job"]["config_name"]
    if name not in (None, "config"):
        words = ["--config-name", str(name), *words]
    for source in hydra["runtime"]["config_sources"]:
        if source["provider"] == "command-line":
            words = ["--config-dir", str(source["path"]).removeprefix("file://"), *words]
    return words


def _no(folder: RunFolder, reason: str) -> InvalidConfig:
    return InvalidConfig([Problem("flame-run resume", str(folder.path), reason, "the folder of a run")])
