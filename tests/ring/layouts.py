"""Plans with rings, by hand, and what such jobs have in common."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from roles.aggregator import Aggregator
from roles.role import Role
from roles.settings import Quorum, Settings
from roles.trainer import Trainer
from tests.roles.federation import PARAMETERS, PATIENCE, UPWARDS, Federation, Job, Layout, Record, Tags, Worker
from tests.roles.specimens import Points, classifier
from transports.inproc import Hub

RING = ("ring_allreduce",)
SIZES = (12, 9, 16, 7, 5, 11)
ALL = Quorum(join_timeout=PATIENCE, rejoin_timeout=PATIENCE)
SURVIVORS = Quorum(join_timeout=PATIENCE, rejoin_timeout=PATIENCE, survivors=True)


def ring(workers: int) -> Layout:
    """So many trainers in one ring, and nobody else."""
    tags: Tags = {"ring": {"trainer": RING}}
    return Layout({"trainer": Trainer}, tags, tuple(Worker(f"trainer-{i}", "trainer", {"ring": "default"}) for i in range(workers)))


def hybrid(groups: Mapping[str, int]) -> Layout:
    """One aggregator, and a ring of so many trainers in each group."""
    labels = [group for group, count in groups.items() for _ in range(count)]
    workers = [Worker("aggregator-0", "aggregator", {"param": "default"})]
    workers += [Worker(f"trainer-{i}", "trainer", {"param": "default", "ring": label}) for i, label in enumerate(labels)]
    tags: Tags = {"param": {"aggregator": PARAMETERS, "trainer": UPWARDS}, "ring": {"trainer": RING}}
    return Layout({"aggregator": Aggregator, "trainer": Trainer}, tags, tuple(workers))


def data_of(count: int) -> dict[str, Points]:
    """Trainer -> its points."""
    return {f"trainer-{index}": Points(index, SIZES[index]) for index in range(count)}


def federation(
    layout: Layout,
    folder: Path | None = None,
    *,
    quorum: Quorum = ALL,
    rounds: int = 3,
    code_of: Mapping[str, type[Role]] | None = None,
    restart: bool = False,
    hub: Hub | None = None,
    settings: Mapping[str, Any] | None = None,
    **more: Any,
) -> Federation:
    """A job of `layout` on the points of `data_of`, ready to run."""
    data: Sequence[Any] = [lambda own=own: own for own in data_of(len(layout.trainers)).values()]
    own = Settings(**{"seed": 4, "rounds": rounds, "quorum": quorum, **(settings or {})})
    given = {"build_module": classifier(), "settings": own, "folder": folder, "code_of": code_of or {}, **more}
    return Federation(layout, Job(data=data, **given), hub=hub, restart=restart)


def errors(records: Mapping[str, Record]) -> dict[str, BaseException | None]:
    """Worker -> why it failed; None: it did not."""
    return {name: record.error for name, record in records.items()}
