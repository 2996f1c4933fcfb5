"""Federations with a coordinator: layouts, jobs, and what becomes of everybody."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from roles.aggregator import Aggregator
from roles.coordinator import Coordinator
from roles.role import Role
from roles.settings import Quorum, Settings
from roles.trainer import Trainer
from tests.roles.federation import PARAMETERS, PATIENCE, UPWARDS, Job, Layout, Record, Tags, Worker
from tests.roles.specimens import Points, classifier

SIZES = (12, 9, 16, 7, 11, 14)
SETTINGS = Settings(seed=9, rounds=4, quorum=Quorum(join_timeout=PATIENCE))
PAIRS = {"global": ("top", "middle"), "hier": ("middle", "leaf"), "param": ("leaf", "trainer")}
FACING = {"top": "TopAgg", "middle": "MidAgg", "leaf": "LeafAgg", "trainer": "Trainer"}


def three_level(trainers: int, leaves: int, middles: int, *, trainer: type[Role] = Trainer) -> Layout:
    """A coordinator that maps every trainer to a leaf and every leaf to a middle aggregator in each round."""
    counts = {"top": 1, "middle": middles, "leaf": leaves, "trainer": trainers}
    workers = [Worker("coordinator-0", "coordinator", {f"c-{role}": "default" for role in counts})]
    for role, count in counts.items():
        groups = {channel: "default" for channel, pair in PAIRS.items() if role in pair}
        workers += [Worker(f"{role}-{index}", role, {**groups, f"c-{role}": "default"}) for index in range(count)]
    tags: Tags = {
        **{channel: {upper: PARAMETERS, lower: UPWARDS} for channel, (upper, lower) in PAIRS.items()},
        **{f"c-{role}": {role: ("coordinate",), "coordinator": (f"coordinateWith{facing}",)} for role, facing in FACING.items()},
    }
    code: dict[str, type[Role]] = dict.fromkeys(counts, Aggregator)
    code |= {"coordinator": Coordinator, "trainer": trainer}
    return Layout(code, tags, tuple(workers))


def regrouped(layout: Layout, channel: str, labels: Mapping[str, str]) -> Layout:
    """The same workers with other labels on one channel."""
    workers = [
        replace(worker, groups={**worker.groups, channel: labels[worker.name]}) if worker.name in labels else worker
        for worker in layout.workers
    ]
    return replace(layout, workers=tuple(workers))


def job(folder: Path | None = None, **more: object) -> Job:
    """Six trainers with data of their own."""
    data = [lambda index=index: Points(index, SIZES[index]) for index in range(len(SIZES))]
    return replace(Job(build_module=classifier(), data=data, settings=SETTINGS, folder=folder), **more)  # type: ignore[arg-type]


def errors(records: Mapping[str, Record]) -> dict[str, BaseException]:
    """Who failed, and how."""
    return {name: record.error for name, record in records.items() if record.error is not None}
