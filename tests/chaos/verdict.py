"""Compares what a run came to with what was expected of it."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from roles import state as states
from tests.chaos import prediction, remains
from tests.chaos.expectation import Expected
from tests.chaos.scenarios import Scenario
from tests.chaos.shapes import ROUNDS, Shape
from tests.chaos.stage import Act


def complaints(act: Act, scenario: Scenario | None, expected: Expected, here: Shape, undisturbed: Mapping[str, Any]) -> list[str]:
    """Everything that is not as expected; `scenario` None: nothing happened in this run."""
    if act.exit != expected.exit:
        return [f"exit status {act.exit}, not {expected.exit}: {_end_of(act)}"]
    summary = act.summary
    if summary is None or expected.status is None:
        return [] if expected.status is None else ["there is no summary"]
    return [
        *_of_summary(summary, expected, here),
        *_of_words(act, summary, scenario, expected),
        *_of_restarts(act, scenario, expected),
        *_of_model(act, scenario, expected, here, undisturbed),
        *remains.in_folder(act.folder, act.temporary),
    ]


def _of_summary(summary: Mapping[str, Any], expected: Expected, here: Shape) -> Iterator[str]:
    if summary["status"] != expected.status:
        yield f"status {summary['status']}, not {expected.status}"
    if list(summary["workers"]) != list(here.kinds):
        yield f"the summary names {list(summary['workers'])}"
    usual = {"completed"} if expected.status == "completed" else {"completed", "terminated"}
    for worker, state in summary["workers"].items():
        if state not in (allowed := expected.states.get(worker, usual)):
            yield f"{worker} is {state}, not {' or '.join(sorted(allowed))}"
    if expected.status == "completed" and (summary["rounds"], summary["error"]) != (ROUNDS, None):
        yield f"rounds {summary['rounds']}, error {summary['error']!r}"


def _of_words(act: Act, summary: Mapping[str, Any], scenario: Scenario | None, expected: Expected) -> Iterator[str]:
    if "Traceback" in act.err and scenario is None:
        yield f"a traceback: {_end_of(act)}"
    if scenario is None or not expected.said:
        return
    name = "" if scenario.of_runner else scenario.worker
    if expected.status == "completed":
        told = [line for line in act.out.splitlines() if line.startswith(f"warning: {name}")]
        if not any(words in line for line in told for words in expected.said):
            yield f"no warning names {name} with one of {expected.said}: {told}"
        return
    error = str(summary["error"])
    if name not in error or not any(words in error for words in expected.said) or expected.why_not not in error:
        yield f"the error does not name {name} with one of {expected.said}: {error}"
    if error not in act.err:
        yield f"the error is not on standard error: {error}"


def _of_restarts(act: Act, scenario: Scenario | None, expected: Expected) -> Iterator[str]:
    restarted = [record["worker"] for record in act.records("tasks.jsonl") if record["state"] == "restarting"]
    victim = scenario is not None and scenario.policy == "restart" and expected.said and [scenario.worker]
    if victim and expected.status == "completed" and restarted != victim:
        yield f"restarted {restarted}, not {victim}"


def _of_model(
    act: Act, scenario: Scenario | None, expected: Expected, here: Shape, undisturbed: Mapping[str, Any]
) -> Iterator[str]:
    summary = act.summary or {}
    if expected.model == "same" and summary["model_sha256"] != undisturbed["model_sha256"]:
        yield "not the model of an undisturbed run"
    if expected.model != "survivors" or scenario is None:
        return
    reached = here.trainers_below(scenario.worker)
    for root, result in summary["roots"].items():
        everyone = here.trainers_below(root)
        if everyone & reached and root != scenario.worker:
            yield from _of_survivors(act, root, result, scenario, here)
        elif root != scenario.worker and result["model_sha256"] != undisturbed["roots"][root]["model_sha256"]:
            yield f"{root} has lost nobody and has not the model of an undisturbed run"


def _of_survivors(act: Act, root: str, result: Mapping[str, Any], scenario: Scenario, here: Shape) -> Iterator[str]:
    state = torch.load(Path(result["model"]), weights_only=True)
    if states.model_sha256(state) != result["model_sha256"] or not all(bool(value.isfinite().all()) for value in state.values()):
        yield f"the model of {root} is not what its hash says, or not finite"
    everyone = here.trainers_below(root)
    lost = here.trainers_below(scenario.worker)
    if here.coordinated and here.kinds[scenario.worker] != "trainer":
        lost = frozenset()
    samples = {
        each["round"]: each["value"] for each in act.records("metrics.jsonl") if (each["worker"], each["name"]) == (root, "samples")
    }
    rounds = [prediction.members(samples.get(number, 0), everyone, everyone - lost, here) for number in range(1, ROUNDS + 1)]
    if not all(samples.get(number) for number in range(1, ROUNDS + 1)):
        yield f"{root} has no updates in some round: {samples}"
    elif None in rounds and not here.coordinated:
        yield f"the samples of {root}'s rounds are neither of all trainers nor of those that were left: {samples}"
    elif None not in rounds:
        off = prediction.distance(state, prediction.predict([each for each in rounds if each is not None], here))
        if off > prediction.TOLERANCE:
            yield f"the model of {root} is {off:.1e} off what those make of it that took part"


def _end_of(act: Act) -> str:
    return " | ".join((act.err or act.out).strip().splitlines()[-6:])
