"""Where a run can go on from, and bringing its folder back to there.

Workers that are connected through channels belong together: they go on from the newest round that every root among them has
whole. Jobs that only share a schema (`schema=parallel`) each go on from their own.
"""

import json
import os
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from flame_run.run.folder import RunFolder
from flame_run.run.records import read_metrics, read_tasks
from flame_run.topology.plan import Plan
from roles import seals


@dataclass(frozen=True, slots=True, kw_only=True)
class Resumed:
    """What the runner needs to know of the part of the job that is done."""

    rounds: Mapping[str, int]
    """Worker -> the round after which it goes on; 0: from the start."""
    workers: frozenset[str] = frozenset()
    """Workers that go on from what they have stored."""
    notes: tuple[str, ...] = ()
    """What to tell the person."""
    seconds: float = 0.0
    """How long the job took before."""
    same_store: bool = True
    """Whether the run stays in the MLflow store that it was tracked in before, whatever the environment says now."""

    @property
    def done(self) -> int:
        """Rounds that are done, of the root that is furthest."""
        return max(self.rounds.values(), default=0)


def stand(plan: Plan, folder: RunFolder, here: Collection[str]) -> Resumed:
    """Find out where each worker goes on; changes nothing.

    Args:
        plan: the workers.
        folder: the run folder.
        here: the workers whose files lie in it. Where the others stand is known from what they reported last.

    Raises:
        OSError: a checkpoint cannot be read.
    """
    rounds: dict[str, int] = {}
    notes: list[str] = []
    for members in together(plan):
        roots = [root for root in plan.roots if root in members]
        common, torn = _common_round(plan, folder, [root for root in roots if root in here])
        if not set(roots) & set(here):
            common = _reported(folder, roots)
        notes += [f"warning: passing over the checkpoint {each}" for each in torn]
        rounds |= dict.fromkeys(members, common)
        who = f"{', '.join(roots)}: " if len(plan.roots) > 1 else ""
        notes.append(f"{who}going on after round {common}" if common else f"{who}there is no checkpoint: starting from round 1")
    entered = {record.worker for record in read_tasks(folder.tasks) if record.round is not None}
    # A root always looks for a checkpoint; others start anew with it.
    workers = {name for name, round in rounds.items() if name in plan.roots or (round and name in entered)}
    return Resumed(rounds=rounds, workers=frozenset(workers), notes=tuple(notes))


def rewind(plan: Plan, folder: RunFolder, resumed: Resumed) -> None:
    """Take out of the folder what will be done again: metrics and checkpoints of later rounds, the summary, drafts."""
    for root in plan.roots:
        for round, path in seals.round_files(_models(plan, folder, root)).items():
            if round > resumed.rounds[root]:
                path.unlink()
    drop_later_metrics(folder, resumed.rounds)
    folder.summary.unlink(missing_ok=True)


def drop_later_metrics(folder: RunFolder, rounds: Mapping[str, int]) -> None:
    """Leave out of `metrics.jsonl` what each worker reported of rounds after its own in `rounds`, and a torn last line."""
    if not folder.metrics.is_file():
        return
    least = min(rounds.values(), default=0)
    draft = folder.metrics.with_name(f"{folder.metrics.name}.tmp")
    with folder.metrics.open("rb") as old, draft.open("wb") as new:
        for line in old:
            if line.endswith(b"\n"):
                record = json.loads(line)
                if record["round"] is None or record["round"] <= rounds.get(record["worker"], least):
                    new.write(line)
        new.flush()
        os.fsync(new.fileno())
    draft.replace(folder.metrics)


def together(plan: Plan) -> list[frozenset[str]]:
    """The workers of a plan, in sets that no channel connects, in the order of the plan."""
    of = {worker.name: frozenset([worker.name]) for worker in plan.workers}
    for channel in plan.channels:
        for roles in channel.groups.values():
            members = _union(of[name] for names in roles.values() for name in names)
            of |= dict.fromkeys(members, members)
    return list(dict.fromkeys(of[worker.name] for worker in plan.workers))


def _union(sets: Iterable[frozenset[str]]) -> frozenset[str]:
    return frozenset().union(*sets)


def _common_round(plan: Plan, folder: RunFolder, roots: list[str]) -> tuple[int, list[str]]:
    """The newest round that all of `roots` have whole (0: none), and what was passed over because it is not."""
    torn: dict[str, None] = {}
    at_most: int | None = None
    while True:
        found = [seals.newest_whole(_models(plan, folder, root), at_most) for root in roots]
        torn |= {each: None for one in found for each in one.torn}
        least = min((one.round for one in found), default=0)
        if all(one.round == least for one in found):
            return least, list(torn)
        at_most = least


def _reported(folder: RunFolder, roots: Collection[str]) -> int:
    """The newest round of which all of `roots` have said that its checkpoint is written."""
    rounds = dict.fromkeys(roots, 0)
    for record in read_metrics(folder.metrics) if folder.metrics.is_file() else ():
        if record.worker in rounds and record.name == "checkpoint_seconds":
            rounds[record.worker] = record.round or 0
    return min(rounds.values(), default=0)


def _models(plan: Plan, folder: RunFolder, root: str) -> Path:
    return folder.models(root if len(plan.roots) > 1 else None)
