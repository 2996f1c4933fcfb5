"""The verb `resume`: go on with a run in its own folder, from its newest whole checkpoint."""

import json
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from flame_run.config.app import call_with_config
from flame_run.errors import InvalidConfig, Problem
from flame_run.launch.external import started_here
from flame_run.launch.forking import warm
from flame_run.launch.workers import quote
from flame_run.run.changes import Change, changed, changes, noteworthy, refused
from flame_run.run.checks import plan_of
from flame_run.run.folder import RunFolder
from flame_run.run.job import linux_only, perform
from flame_run.run.past import Past, await_workers_gone, read_past, seconds_so_far
from flame_run.run.rewind import rewind, stand
from flame_run.run.runner import Runner
from flame_run.topology.plan import Plan, plan_to_json
from flame_run.track.state import TrackState

VERB = "flame-run resume"


def resume(arguments: Sequence[str]) -> int:
    """Go on with the run whose folder is the first of `arguments`; the others are overrides on top of its own.

    Returns:
        The exit status, 0.

    Raises:
        InvalidConfig: it is no run, the run is going on, or something was changed that cannot be.
        FlameRunError: how the job ended, if not well.
    """
    words = list(arguments)
    if not words or words[0].startswith(("-", "+", "~")) or ("=" in words[0] and not Path(words[0]).is_dir()):
        raise InvalidConfig([Problem(VERB, " ".join(words), "takes the folder of a run, then overrides")])
    if sweeping := sorted({"-m", "--multirun"} & set(words)):
        raise InvalidConfig([Problem(VERB, sweeping[0], "one run goes on; leave it out and give each key one value")])
    folder, overrides = RunFolder(words[0]), words[1:]
    past = read_past(folder)
    forks = str(OmegaConf.select(past.config, "launcher._target_")).endswith(("LocalLauncher", "CohortLauncher"))
    if forks and (overrides or not past.completed):
        warm()
    folder.reclaim()
    try:
        await_workers_gone(folder)
        os.chdir(past.cwd)

        def go_on(cfg: DictConfig) -> Any:
            return _go_on(cfg, past, overrides)

        call_with_config(go_on, [*past.words, *overrides], [f"hydra.run.dir={quote(str(folder.path))}"])
    finally:
        folder.sweep()
    return 0


def _go_on(cfg: DictConfig, past: Past, overrides: Sequence[str]) -> float | None:
    """The task function: check what is new, bring the folder back to the last checkpoint, run on."""
    linux_only()
    plan = plan_of(cfg)
    # The id of a job derives from its documents, unless it is given.
    found = [change for change in changes(past.config, cfg) if (change.key, change.now) != ("job.id", past.plan["job"]["id"])]
    resumed = stand(plan, past.folder, started_here(cfg, plan))
    problems = [*refused(found), *_other_workers(plan, past)]
    rounds = int(cfg.job.hyperparameters.rounds)
    if rounds < resumed.done:
        reason = f"the run has {resumed.done} rounds done already"
        problems.append(Problem("job.hyperparameters.rounds", rounds, reason, f"a number from {resumed.done}"))
    if problems:
        raise InvalidConfig(problems)
    if (nothing := _nothing_to_do(past, found, rounds)) is not None:
        print(f"{past.folder.path}: {nothing}\n{past.folder.path}", flush=True)  # noqa: T201
        return None
    known = TrackState.rewind(past.folder.path)
    resumed = replace(
        resumed,
        notes=(
            *resumed.notes,
            *(f"from here on {change.key} is {change.now!r}, not {change.before!r}" for change in noteworthy(found)),
        ),
        seconds=seconds_so_far(past.folder),
        same_store=known and not _names(overrides, "tracking"),
    )
    runner = Runner(cfg, plan, past.folder, resumed)
    rewind(plan, past.folder, resumed)
    return perform(runner, cfg)


def _nothing_to_do(past: Past, found: list[Change], rounds: int) -> str | None:
    """Why there is nothing left to do; None if there is."""
    if not past.completed or past.summary is None:
        return None
    done = int(past.summary.get("rounds") or 0)
    reasons = [root["stopped"] for root in past.summary.get("roots", {}).values() if root.get("stopped")]
    if reasons and not (changed(found, "job.stop") and rounds > done):
        return f"nothing is left to do: the job ended after round {done} because {reasons[0]}; another job.stop lets it go on"
    if not reasons and rounds <= done:
        return f"nothing is left to do: the job has completed its {done} rounds; job.hyperparameters.rounds=N lets it go on"
    return None


def _other_workers(plan: Plan, past: Past) -> list[Problem]:
    now = json.loads(json.dumps(plan_to_json(plan)))
    places = [key for key in ("workers", "channels") if now[key] != past.plan.get(key)]
    places += [f"job.{key}" for key in ("roots", "code") if now["job"][key] != past.plan["job"].get(key)]
    reason = "the documents make other workers than those that the run began with"
    return [Problem(f"the plan, {place}", "", reason, "start a new run") for place in places]


def _names(overrides: Sequence[str], group: str) -> bool:
    return any(word.lstrip("+~").partition("=")[0].startswith(group) for word in overrides)
