"""Deterministic faults for tests: workers that end, freeze or fail at a named point, told by the environment.

A job attaches the classes of `chaos_roles` as the code of its roles (`code()`), which it finds by `python_path`. They read from
the variable `CHAOS_POINTS` a JSON list of faults:

    {"worker": "trainer-1", "point": "training", "round": 2, "fault": "SIGKILL", "marker": "/path", "times": 1}

`round` null: any. A fault happens `times` times (null: always), counted by files beside `marker`, so that a worker that
was started again does not die again. Faults: the name of a signal; `raise:NAME` of a built-in exception; `unpicklable`;
`exit:N` (`sys.exit`), `_exit:N` (`os._exit`); `everybody` (SIGKILL to the runner and all of its processes);
`runner:NAME` (a signal to the runner alone, while the worker goes on);
`hang` (a wait without an end in the role's own thread).

Points, by what the worker is about to do or in the midst of:

    registering   the process is there, the controller does not know it (needs `preload()`, launcher=local)
    assembling    registered, not ready: the role is being made
    joining       ready, its channels are not open yet
    receiving     it was offered a message of the round and has not taken it
    training      a trainer trains in the round
    reducing      a piece of its update is under way in a ring
    uploading     its update of the round is under way
    distributing  the model of the round is under way to its ends
    aggregating   an update of the round was offered to it
    assigning     a coordinator was asked for the round
    telling       it has told the first worker
    between       the round is over for it, the next one has not begun
    ending        its work is done, its completion is not reported
"""

import builtins
import json
import os
import signal
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

VARIABLE = "CHAOS_POINTS"
POINTS = {
    "trainer": ("registering", "assembling", "joining", "receiving", "training", "uploading", "between", "ending"),
    "middle": (
        "registering", "assembling", "joining", "receiving", "distributing", "aggregating", "uploading", "between", "ending",
    ),
    "root": ("registering", "assembling", "joining", "distributing", "aggregating", "between", "ending"),
    "coordinator": ("registering", "assembling", "joining", "assigning", "telling", "between", "ending"),
}  # fmt: skip
"""Kind of worker -> the points that it passes."""


class Unpicklable(Exception):
    """An error that cannot travel."""

    def __reduce__(self) -> Any:
        return threading.Lock()


def fault(worker: str, point: str, what: str, marker: Path, *, round: int | None = None, times: int | None = 1) -> dict[str, Any]:
    """One entry of the list; `marker` is a path that no other fault uses."""
    return {"worker": worker, "point": point, "round": round, "fault": what, "marker": str(marker), "times": times}


def environment(*faults: Mapping[str, Any]) -> dict[str, str]:
    """The variable that tells workers of `faults`."""
    return {VARIABLE: json.dumps(faults)}


def code(**classes: str) -> list[str]:
    """Overrides that attach the classes of `chaos_roles`: role name -> `Trainer`, `Aggregator` or `Coordinator`."""
    folder = Path(__file__).parent
    attached = [f"+job.code.{role.replace('_', '-')}=chaos_roles.Chaos{name}" for role, name in classes.items()]
    return [f"python_path=[{folder}]", *attached]


def preload() -> str:
    """The override that makes the point `registering` work."""
    return "launcher.preload=[flame_run.launch.preload,chaos_preload]"


def happened(entry: Mapping[str, Any]) -> int:
    """How often a fault has happened."""
    marker = Path(entry["marker"])
    return len(list(marker.parent.glob(f"{marker.name}.*")))


def pass_point(worker: str, point: str, round: int | None = None) -> None:
    """Let happen what is to happen to `worker` here."""
    for entry in json.loads(os.environ.get(VARIABLE, "[]")):
        here = entry["worker"] == worker and entry["point"] == point
        if here and entry["round"] in (None, round) and _claim(entry):
            _do(entry["fault"], f"{worker} at {point}, round {round}")


def _claim(entry: Mapping[str, Any]) -> bool:
    """Count this time, unless the fault has happened often enough."""
    number = 0
    while entry["times"] is None or number < entry["times"]:
        try:
            os.close(os.open(f"{entry['marker']}.{number}", os.O_CREAT | os.O_EXCL, 0o644))
        except FileExistsError:
            number += 1
        else:
            return True
    return False


def _runner() -> psutil.Process:
    me = psutil.Process()
    return [each for each in (me, *me.parents()) if "flame_run" in each.cmdline()][-1]


def _kill_everybody() -> None:
    """Kill the runner, then everything that it started."""
    me, runner = psutil.Process(), _runner()
    for each in [runner, *(child for child in runner.children(recursive=True) if child != me), me]:
        with suppress(psutil.NoSuchProcess):
            each.kill()


def _do(what: str, where: str) -> None:
    print(f"chaos: {what}: {where}, process {os.getpid()}", flush=True)
    kind, _, value = what.partition(":")
    if kind == "raise":
        raise getattr(builtins, value)(f"chaos: {where}")
    if kind == "unpicklable":
        raise Unpicklable(f"chaos: {where}")
    if kind == "exit":
        sys.exit(int(value))
    if kind == "_exit":
        os._exit(int(value))
    if kind == "everybody":
        _kill_everybody()
    if kind == "hang":
        threading.Event().wait()
    if kind == "runner":
        _runner().send_signal(signal.Signals[value])
        return
    os.kill(os.getpid(), signal.Signals[what])
