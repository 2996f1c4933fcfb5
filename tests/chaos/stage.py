"""One `flame-run` process of a scenario, from its start to its end or to the moment at which it has to be over."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil

from tests import chaos_points as chaos
from tests.chaos import remains
from tests.chaos.scenarios import MOMENT, Scenario

LIMIT = 240.0
"""Seconds that a run may take; an undisturbed one takes about 4 on an idle machine."""
WITHOUT_RUNNER = 60.0
"""Seconds in which workers of a frozen runner have to end."""
GLANCE = 0.02
"""Seconds between two looks at a running job."""
MODULES = Path(chaos.__file__).parent


class Act:
    """A `flame-run` process with the fault of a scenario.

    Args:
        arguments: of `flame-run`.
        place: the working folder; the run folder is `here` in it.
        scenario: whose fault happens; None: nothing happens.
        mark: by which its processes are known.
    """

    def __init__(self, arguments: Sequence[str], place: Path, scenario: Scenario | None, mark: str) -> None:
        self.problems: list[str] = []
        self.folder = place / "here"
        self.temporary = place / "tmp"
        self.temporary.mkdir(exist_ok=True)
        self._place = place
        self._mark = mark
        self._moment = scenario if scenario is not None and scenario.point == MOMENT else None
        self._freezes_runner = scenario is not None and scenario.fault == "runner:SIGSTOP"
        self._faults = [] if scenario is None or self._moment else [_fault(scenario, place)]
        self._struck = False
        before = remains.segments()
        began = time.monotonic()
        self.exit = self._run(arguments)
        self.seconds = time.monotonic() - began
        self.out, self.err = ((place / name).read_text() for name in ("out", "err"))
        self.problems += remains.of_run(mark, before)

    @property
    def happened(self) -> bool:
        """Whether the fault has happened."""
        return self._struck or any(chaos.happened(fault) for fault in self._faults)

    @property
    def summary(self) -> dict[str, Any] | None:
        """The summary of the run; None if there is none."""
        path = self.folder / "summary.json"
        return json.loads(path.read_text()) if path.exists() else None

    def records(self, name: str) -> list[dict[str, Any]]:
        """The whole lines of a file of the run folder."""
        path = self.folder / name
        lines = path.read_text().splitlines(keepends=True) if path.exists() else []
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def _run(self, arguments: Sequence[str]) -> int | None:
        command = [sys.executable, "-m", "flame_run", *arguments]
        with (self._place / "out").open("w") as out, (self._place / "err").open("w") as err:
            process = subprocess.Popen(
                command,
                cwd=self._place,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                env=environment(self._mark, self.temporary) | chaos.environment(*self._faults),
                start_new_session=True,
            )
            try:
                return self._watch(process)
            finally:
                for each in [*remains.processes(self._mark)] if process.poll() is None else []:
                    each.kill()
                process.wait()

    def _watch(self, process: "subprocess.Popen[bytes]") -> int | None:
        """The exit status; None, and a problem, if the run did not end in time."""
        until = time.monotonic() + LIMIT
        while time.monotonic() < until:
            try:
                return process.wait(GLANCE)
            except subprocess.TimeoutExpired:
                self._strike()
                if self._freezes_runner and self.happened:
                    self._outlive(process)
        self.problems.append(f"hangs: not over after {LIMIT:g} s")
        self.problems += [remains.described(each) for each in remains.processes(self._mark)]
        self.problems += [f"{log.parent.name}: {_last_line(log)}" for log in sorted(self.folder.glob("workers/*/worker.log"))]
        return None

    def _strike(self) -> None:
        """Let the fault of a moment happen, when it is time and the worker is there."""
        if self._moment is None or self._struck:
            return
        records = self.records("tasks.jsonl")
        pids = [record["pid"] for record in records if record["worker"] == self._moment.worker and record["pid"]]
        if len(records) >= (self._moment.number or 0) and pids and psutil.pid_exists(pids[-1]):
            self._struck = True
            os.kill(pids[-1], signal.Signals[self._moment.fault])

    def _outlive(self, process: "subprocess.Popen[bytes]") -> None:
        """The runner is frozen: its workers must end by themselves; then kill it."""
        pids = {record["pid"] for record in self.records("tasks.jsonl")} - {None}
        workers = [each for each in remains.processes(self._mark) if each.pid in pids]
        _, alive = psutil.wait_procs(workers, timeout=WITHOUT_RUNNER)
        self.problems += [f"goes on {WITHOUT_RUNNER:g} s after its runner froze: {remains.described(each)}" for each in alive]
        process.kill()
        self._freezes_runner = False


def environment(mark: str, temporary: Path) -> dict[str, str]:
    """The environment of a run that is known by `mark`, without what a person's shell says about tracking."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("MLFLOW_", "FLAME_RUN_", "HYDRA_"))}
    path = os.pathsep.join(filter(None, [str(MODULES), str(MODULES.parent), os.environ.get("PYTHONPATH")]))
    return {**kept, "PYTHONPATH": path, remains.MARK: mark, "TMPDIR": str(temporary)}


def _fault(scenario: Scenario, place: Path) -> Mapping[str, Any]:
    return chaos.fault(scenario.worker, scenario.point, scenario.fault, place / "fault", round=scenario.number)


def _last_line(path: Path) -> str:
    lines = path.read_text(errors="replace").splitlines()
    return lines[-1] if lines else "has written nothing"
