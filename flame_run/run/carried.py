"""Files that the configuration names and every worker needs: read once by the runner and carried in the workers' parts.

So a path is one of the runner's machine, relative to where the command was typed, and a worker at another site needs no file.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flame_run.errors import InvalidConfig, Problem
from flame_run.run.simulated import BadTrace, read_trace
from roles.selectors import availability

TRACE_SELECTOR = "roles.selectors.trace.Trace"


def carry(config: Mapping[str, Any]) -> dict[str, Any]:
    """A resolved configuration of workers with the contents of those files in the place of their paths.

    Raises:
        InvalidConfig: a file that cannot be used.
    """
    return {**config, "job": _with_trace(config["job"]), "selector": _with_intervals(config["selector"])}


def _with_trace(job: Mapping[str, Any]) -> Mapping[str, Any]:
    simulated = job.get("simulatedTime")
    if not simulated or not isinstance(simulated.get("trace"), str):
        return job
    try:
        found = read_trace(Path(simulated["trace"]))
    except BadTrace as error:
        raise InvalidConfig([Problem("job.simulatedTime.trace", simulated["trace"], str(error))]) from error
    rows = {worker: [[at, *span] for at, span in rounds.items()] for worker, rounds in found.items()}
    return {**job, "simulatedTime": {**simulated, "trace": rows}}


def _with_intervals(selector: Mapping[str, Any]) -> Mapping[str, Any]:
    if selector.get("_target_") != TRACE_SELECTOR or not selector.get("file"):
        return selector
    try:
        found = availability.read(Path(selector["file"]))
    except ValueError as error:
        raise InvalidConfig([Problem("selector.file", selector["file"], str(error))]) from error
    return {**selector, "file": None, "intervals": {worker: [list(each) for each in rows] for worker, rows in found.items()}}
