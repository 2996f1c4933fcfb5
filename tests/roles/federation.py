"""Whole federations inside the process of the test: hand-made contexts, one thread per worker, one at a time."""

import threading
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningDataModule, LightningModule
from torch import Tensor

from flame_run.launch.baton import Baton
from roles.aggregator import Aggregator
from roles.context import Context, Peer
from roles.coordinator import Coordinator
from roles.role import Role
from roles.settings import Settings
from roles.strategy import FedAvg, Strategy
from roles.trainer import Trainer
from transports.base import ChannelSpec
from transports.inproc import Hub, InprocEndpoint

PATIENCE = 60.0
"""Seconds after which a federation that does not end fails the test."""

PARAMETERS = ("distribute", "aggregate")
UPWARDS = ("fetch", "upload")

Tags = Mapping[str, Mapping[str, tuple[str, ...]]]
"""Channel -> role -> the function tags that the role performs there."""


@dataclass(frozen=True)
class Worker:
    """A worker of the plan: its groups are channel -> label."""

    name: str
    role: str
    groups: Mapping[str, str]


@dataclass(frozen=True)
class Layout:
    """A plan by hand: code of each role, function tags (channel -> role -> tags), workers in order."""

    code: Mapping[str, type[Role]]
    tags: Tags
    workers: tuple[Worker, ...]

    @property
    def trainers(self) -> list[str]:
        return [worker.name for worker in self.workers if worker.role == "trainer"]

    def ends(self, worker: Worker, channel: str) -> list[Worker]:
        """Who is at the other side of `channel` for `worker`, in the order of the plan."""
        other = next(role for role in self.tags[channel] if role != worker.role)
        label = worker.groups[channel]
        return [peer for peer in self.workers if peer.role == other and peer.groups[channel] == label]


def two_tier(trainers: int, *, trainer: type[Role] = Trainer) -> Layout:
    """One aggregator over `trainers` trainers."""
    workers = [Worker("aggregator-0", "aggregator", {"param": "default"})]
    workers += [Worker(f"trainer-{index}", "trainer", {"param": "default"}) for index in range(trainers)]
    tags: Tags = {"param": {"aggregator": PARAMETERS, "trainer": UPWARDS}}
    return Layout({"aggregator": Aggregator, "trainer": trainer}, tags, tuple(workers))


def three_tier(groups: Mapping[str, int], *, trainer: type[Role] = Trainer) -> Layout:
    """One top aggregator, a middle one for each group, and so many trainers in each."""
    workers = [Worker("top-0", "top", {"global": "default"})]
    workers += [Worker(f"middle-{i}", "middle", {"global": "default", "param": group}) for i, group in enumerate(groups)]
    labels = [group for group, count in groups.items() for _ in range(count)]
    workers += [Worker(f"trainer-{i}", "trainer", {"param": label}) for i, label in enumerate(labels)]
    tags: Tags = {
        "global": {"top": PARAMETERS, "middle": UPWARDS},
        "param": {"middle": PARAMETERS, "trainer": UPWARDS},
    }
    return Layout({"top": Aggregator, "middle": Aggregator, "trainer": trainer}, tags, tuple(workers))


def coordinated(trainers: int, middles: int, *, trainer: type[Role] = Trainer) -> Layout:
    """A coordinator that maps every trainer to one of the middle aggregators in each round."""
    everywhere = {"global": "default", "param": "default", "c-top": "default", "c-middle": "default", "c-trainer": "default"}

    def worker(role: str, index: int, *channels: str) -> Worker:
        return Worker(f"{role}-{index}", role, {channel: everywhere[channel] for channel in channels})

    workers = [worker("coordinator", 0, "c-top", "c-middle", "c-trainer"), worker("top", 0, "global", "c-top")]
    workers += [worker("middle", index, "global", "param", "c-middle") for index in range(middles)]
    workers += [worker("trainer", index, "param", "c-trainer") for index in range(trainers)]
    tags: Tags = {
        "global": {"top": PARAMETERS, "middle": UPWARDS},
        "param": {"middle": PARAMETERS, "trainer": UPWARDS},
        "c-top": {"top": ("coordinate",), "coordinator": ("coordinateWithTopAgg",)},
        "c-middle": {"middle": ("coordinate",), "coordinator": ("coordinateWithMidAgg",)},
        "c-trainer": {"trainer": ("coordinate",), "coordinator": ("coordinateWithTrainer",)},
    }
    code: dict[str, type[Role]] = {"coordinator": Coordinator, "top": Aggregator, "middle": Aggregator, "trainer": trainer}
    return Layout(code, tags, tuple(workers))


@dataclass
class Record:
    """What one worker reported, and how it ended."""

    rounds: list[int] = field(default_factory=list)
    epochs: list[int] = field(default_factory=list)
    metrics: list[tuple[int, dict[str, float]]] = field(default_factory=list)
    results: list[dict[str, Any]] = field(default_factory=list)
    error: BaseException | None = None
    state: dict[str, Tensor] = field(default_factory=dict)
    """The final state dict of a trainer's module."""

    def entered(self, round: int) -> None:
        self.rounds.append(round)

    def progress(self, epoch: int, epochs: int) -> None:
        self.epochs.append(epoch)

    def metrics_of(self, name: str) -> dict[int, float]:
        """Round -> value of the metric `name`."""
        return {round: values[name] for round, values in self.metrics if name in values}


class Reporter:
    """Writes into a `Record`."""

    def __init__(self, record: Record) -> None:
        self.entered, self.progress = record.entered, record.progress
        self._record = record

    def prepared(self) -> None:
        """Nothing to write."""

    def metrics(self, round: int, values: Mapping[str, float]) -> None:
        self._record.metrics.append((round, dict(values)))

    def result(self, values: Mapping[str, Any]) -> None:
        self._record.results.append(dict(values))


@dataclass(frozen=True, kw_only=True)
class Job:
    """What a federation trains: factories and settings. `data` is one factory per trainer, in the order of the plan."""

    build_module: Callable[[], LightningModule]
    data: Sequence[Callable[[], LightningDataModule]]
    build_test_data: Callable[[], LightningDataModule] | None = None
    settings: Settings = field(default_factory=Settings)
    settings_of: Mapping[str, Settings] = field(default_factory=dict)
    """Settings of single roles, where they differ."""
    strategy: Callable[[], Strategy] = FedAvg
    options: Callable[[], Mapping[str, Any]] = dict
    modules: Mapping[str, Callable[[], LightningModule]] = field(default_factory=dict)
    """Factories of single workers, where they differ."""
    folder: Path | None = None
    overlap: bool = False
    code_of: Mapping[str, type[Role]] = field(default_factory=dict)
    """Classes of single workers, where they differ."""


def federate(layout: Layout, job: Job) -> dict[str, Record]:
    """Run all workers to their end; worker -> what it reported.

    Raises:
        AssertionError: somebody was still there after `PATIENCE` seconds; names them.
    """
    hub, baton = Hub(), Baton()
    endpoints = {worker.name: InprocEndpoint(worker.name, hub, gate=baton) for worker in layout.workers}
    records: dict[str, Record] = defaultdict(Record)
    contexts = {worker.name: _context(layout, job, worker, endpoints[worker.name], records) for worker in layout.workers}
    threads = []
    # Nobody runs before all stand in line, so that two runs take the same turns.
    with baton.held():
        for worker in layout.workers:
            code = job.code_of.get(worker.name, layout.code[worker.role])
            in_line = threading.Event()
            arguments = (code, contexts[worker.name], baton, records[worker.name], in_line)
            threads.append(threading.Thread(target=_work, args=arguments, name=worker.name, daemon=True))
            threads[-1].start()
            assert in_line.wait(PATIENCE)
    for thread in threads:
        thread.join(PATIENCE)
    late = [thread.name for thread in threads if thread.is_alive()]
    for endpoint in endpoints.values():
        endpoint.abort("the test is over")
    assert not late, f"still there: {late}"
    return dict(records)


def _context(layout: Layout, job: Job, worker: Worker, endpoint: InprocEndpoint, records: Mapping[str, Record]) -> Context:
    tags: dict[str, list[str]] = defaultdict(list)
    peers: dict[str, Peer] = {}
    channels = {}
    for channel, roles in layout.tags.items():
        if worker.role in roles:
            ends = layout.ends(worker, channel)
            spec = ChannelSpec(name=channel, group=worker.groups[channel], ends=tuple(end.name for end in ends))
            channels[channel] = spec
            peers |= {end.name: Peer(name=end.name, role=end.role, groups=end.groups) for end in ends}
            for tag in roles[worker.role]:
                tags[tag].append(channel)
    trains, is_root = worker.name in layout.trainers, "distribute" in tags and "fetch" not in tags
    return Context(
        name=worker.name,
        role=worker.role,
        index=int(worker.name.rpartition("-")[2]),
        endpoint=endpoint,
        channels=channels,
        tags={tag: tuple(names) for tag, names in tags.items()},
        peers=peers,
        groups=worker.groups,
        settings=job.settings_of.get(worker.role, job.settings),
        strategy=job.strategy(),
        reporter=Reporter(records[worker.name]),
        folder=job.folder if is_root else None,
        build_module=job.modules.get(worker.name, job.build_module),
        build_data=job.data[layout.trainers.index(worker.name)] if trains else None,
        build_test_data=job.build_test_data if is_root else None,
        build_trainer_options=job.options,
        overlap=job.overlap,
    )


def _work(code: type[Role], context: Context, baton: Baton, record: Record, in_line: threading.Event) -> None:
    try:
        with baton.held(on_line=in_line.set):
            role = code(context)
            try:
                role.run()
            except BaseException as error:
                context.endpoint.abort(f"{context.name} failed: {error}")
                raise
            finally:
                if isinstance(role, Trainer) and hasattr(role, "training"):
                    record.state = {name: value.clone() for name, value in role.training.module.state_dict().items()}
                context.endpoint.close()
    except BaseException as error:  # noqa: BLE001 - how a worker ended is what tests look at
        record.error = error
