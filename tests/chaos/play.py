"""Plays a scenario with the real command and real processes, and says everything that is wrong with what came of it."""

import json
import shutil
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from tests import chaos_points as chaos
from tests.chaos.expectation import Expected, expect
from tests.chaos.scenarios import MOMENT, Scenario
from tests.chaos.shapes import overrides, shape
from tests.chaos.stage import Act
from tests.chaos.verdict import complaints

IMPATIENT = ("faults.heartbeat=10", "faults.join_timeout=60")
"""Of a job whose worker freezes: so that its loss is known soon."""
PATIENT = ("faults.heartbeat=30", "faults.join_timeout=120")
UNTOUCHED = [Expected(exit=0, status="completed", model="same")]


@dataclass(frozen=True, slots=True, kw_only=True)
class Played:
    """What came of a scenario."""

    scenario: Scenario
    outcome: str
    problems: list[str]
    seconds: float

    @property
    def command(self) -> str:
        """How to play it again alone."""
        return f"python -m tests.chaos --only {self.scenario}"


class Theatre:
    """Plays scenarios in folders of their own below `folder`; the undisturbed run of each topology is made once."""

    def __init__(self, folder: Path, *, keep: bool = False) -> None:
        self._folder = folder
        self._keep = keep
        folder.mkdir(parents=True, exist_ok=True)

    def undisturbed(self, topology: str) -> Mapping[str, Any]:
        """The summary of an undisturbed run; several processes may ask at once."""
        known = self._folder / f"undisturbed-{topology}.json"
        with FileLock(f"{known}.lock"):
            if not known.exists():
                place = self._place(topology)
                act = Act([*overrides(topology), "hydra.run.dir=here"], place, None, _mark())
                if act.exit != 0 or act.problems or act.summary is None:
                    raise AssertionError(f"{topology}, undisturbed: {act.problems}\n{act.out}{act.err}")
                known.write_text(json.dumps(act.summary))
                shutil.rmtree(place)
        summary: dict[str, Any] = json.loads(known.read_text())
        return summary

    def play(self, scenario: Scenario) -> Played:
        """Play one scenario, and resume its job where it has to be resumable."""
        try:
            here, undisturbed = shape(scenario.topology), self.undisturbed(scenario.topology)
        except AssertionError as error:
            return Played(scenario=scenario, outcome="not played", problems=[str(error)], seconds=0.0)
        place = self._place(str(scenario).replace("/", "_").replace(":", "-"))
        act = Act([*overrides(scenario.topology), *_policy(scenario), "hydra.run.dir=here"], place, scenario, _mark())
        problems, seconds, happened = list(act.problems), act.seconds, act.happened
        ways = expect(scenario, here) if happened else UNTOUCHED
        if not happened and scenario.point != MOMENT and not here.coordinated:
            problems.append("the fault did not happen")
        found = [complaints(act, scenario if happened else None, way, here, undisturbed) for way in ways]
        best = min(range(len(ways)), key=lambda index: len(found[index]))
        problems += found[best]
        outcome = _outcome(act) if happened else "not reached"
        if ways[best].resumes and act.exit is not None:
            again = Act(["resume", "here", *(PATIENT if scenario.freezes else ())], place, None, _mark())
            seconds += again.seconds
            wrong = [*again.problems, *complaints(again, None, UNTOUCHED[0], here, undisturbed)]
            problems += [f"resumed: {each}" for each in wrong]
            outcome += ", resumed"
        if not problems and not self._keep:
            shutil.rmtree(place)
        return Played(scenario=scenario, outcome=outcome, problems=problems, seconds=seconds)

    def _place(self, name: str) -> Path:
        place = self._folder / name
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        return place


def _policy(scenario: Scenario) -> list[str]:
    chosen = [f"faults.on_worker_loss={scenario.policy}", "faults.backoff=0.1"]
    chosen += IMPATIENT if scenario.freezes else ()
    return [*chosen, chaos.preload()] if scenario.point == "registering" else chosen


def _outcome(act: Act) -> str:
    if act.exit is None:
        return "hangs"
    if act.summary is None:
        return "killed" if act.exit < 0 else f"exit {act.exit}"
    return str(act.summary["status"])


def _mark() -> str:
    return uuid.uuid4().hex
