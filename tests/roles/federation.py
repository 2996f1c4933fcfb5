"""Whole federations inside the process of the test: hand-made contexts, one thread per worker, one at a time."""

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningDataModule, LightningModule
from torch import Tensor

from flame_run.launch.baton import Baton
from roles.aggregator import Aggregator
from roles.algorithms.fedavg import FedAvg
from roles.context import Context, Peer
from roles.coordinator import Coordinator
from roles.privacy.privacy import Open, Privacy
from roles.role import Role
from roles.samplers.sampler import All as EverySample
from roles.samplers.sampler import Sampler
from roles.selectors.selector import All as EveryEnd
from roles.selectors.selector import Selector
from roles.settings import Settings
from roles.strategy import Strategy
from roles.trainer import Trainer
from transports.base import ChannelSpec
from transports.inproc import Hub, InprocEndpoint

PATIENCE = 120.0
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
        return [worker.name for worker in self.workers if worker.role.endswith("trainer")]

    def below(self, worker: Worker) -> set[str]:
        """The trainers that are below `worker`, through any number of aggregators."""
        names: set[str] = set()
        for channel, roles in self.tags.items():
            if "distribute" in roles.get(worker.role, ()):
                for end in self.ends(worker, channel):
                    names |= {end.name} if end.name in self.trainers else self.below(end)
        return names

    def ends(self, worker: Worker, channel: str) -> list[Worker]:
        """Who is at the other side of `channel` for `worker`, in the order of the plan."""
        other = next((role for role in self.tags[channel] if role != worker.role), worker.role)
        label = worker.groups[channel]
        return [peer for peer in self.workers if peer.role == other and peer.groups[channel] == label and peer != worker]


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
    deaths: list[BaseException] = field(default_factory=list)
    """Why it was started anew."""
    done: int = 0
    """How many rounds it had entered when it was started anew last."""
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
    selector: Callable[[], Selector] = EveryEnd
    sampler: Callable[[], Sampler] = EverySample
    privacy: Callable[[], Privacy] = Open
    options: Callable[[], Mapping[str, Any]] = dict
    modules: Mapping[str, Callable[[], LightningModule]] = field(default_factory=dict)
    """Factories of single workers, where they differ."""
    folder: Path | None = None
    states: Path | None = None
    """Where the workers keep what they remember, each in a folder of its own."""
    resume: bool = False
    overlap: bool = False
    code_of: Mapping[str, type[Role]] = field(default_factory=dict)
    """Classes of single workers, where they differ."""


class Killed(Exception):
    """What a test raises in a worker that is to die."""


class Federation:
    """Workers that are threads of this process, and what a runner does for them.

    A worker that fails is lost: everybody else is told that it is gone, or, with `restart`, it is started anew. Who is
    started anew resumes: it goes on from what it has stored.
    """

    def __init__(self, layout: Layout, job: Job, *, hub: Hub | None = None, restart: bool = False, tell: bool = True) -> None:
        self.layout = layout
        self.job = job
        self.hub = hub or Hub()
        self.records: dict[str, Record] = {worker.name: Record() for worker in layout.workers}
        self._restart = restart
        self._tell = tell
        self._baton = Baton()
        self._endpoints: dict[str, InprocEndpoint] = {}
        self._threads: list[threading.Thread] = []
        self._completed: list[str] = []

    def run(self) -> dict[str, Record]:
        """Run all workers to their end; worker -> what it reported.

        Raises:
            AssertionError: somebody was still there after `PATIENCE` seconds; names them.
        """
        # Nobody runs before all stand in line, so that two runs take the same turns.
        with self._baton.held():
            for worker in self.layout.workers:
                self._start(worker, resume=False)
        until = time.monotonic() + PATIENCE
        # Those who are started anew are appended meanwhile.
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))
        late = [thread.name for thread in self._threads if thread.is_alive()]
        for endpoint in self._endpoints.values():
            endpoint.abort("the test is over")
        assert not late, f"still there: {late}"
        return dict(self.records)

    def lose(self, name: str, reason: str) -> None:
        """Tell everybody that a worker will not come back."""
        for other, endpoint in list(self._endpoints.items()):
            if other != name:
                endpoint.forget(name, reason)

    def _start(self, worker: Worker, *, resume: bool) -> None:
        endpoint = InprocEndpoint(worker.name, self.hub, gate=self._baton)
        for other in self._completed:
            endpoint.forget(other, "it has completed")
        self._endpoints[worker.name] = endpoint
        context = _context(self.layout, self.job, worker, endpoint, self.records)
        in_line = threading.Event()
        arguments = (worker, replace(context, resume=resume or self.job.resume), in_line)
        self._threads.append(threading.Thread(target=self._work, args=arguments, name=worker.name, daemon=True))
        self._threads[-1].start()
        assert in_line.wait(PATIENCE)

    def _work(self, worker: Worker, context: Context, in_line: threading.Event) -> None:
        record = self.records[worker.name]
        code = self.job.code_of.get(worker.name, self.layout.code[worker.role])
        with self._baton.held(on_line=in_line.set):
            try:
                role = code(context)
                try:
                    role.run()
                finally:
                    if isinstance(role, Trainer) and hasattr(role, "training"):
                        record.state = {name: value.clone() for name, value in role.training.module.state_dict().items()}
            except BaseException as error:  # noqa: BLE001 - how a worker ended is what tests look at
                self._lost(worker, context, error)
            else:
                self._completed.append(worker.name)
                context.endpoint.close()

    def _lost(self, worker: Worker, context: Context, error: BaseException) -> None:
        record, reason = self.records[worker.name], f"{worker.name} failed: {error}"
        context.endpoint.abort(reason)
        context.endpoint.close()
        if self._restart and isinstance(error, Killed):
            record.deaths.append(error)
            record.done = len(record.rounds)
            self._start(worker, resume=True)
        else:
            record.error = error
            if self._tell:
                self.lose(worker.name, reason)


def federate(layout: Layout, job: Job, *, hub: Hub | None = None, restart: bool = False) -> dict[str, Record]:
    """Run all workers to their end; worker -> what it reported. See `Federation`."""
    return Federation(layout, job, hub=hub, restart=restart).run()


def _context(layout: Layout, job: Job, worker: Worker, endpoint: InprocEndpoint, records: Mapping[str, Record]) -> Context:
    tags: dict[str, list[str]] = defaultdict(list)
    peers: dict[str, Peer] = {}
    channels = {}
    for channel, roles in layout.tags.items():
        if worker.role in roles:
            ends = layout.ends(worker, channel)
            spec = ChannelSpec(name=channel, group=worker.groups[channel], ends=tuple(end.name for end in ends))
            channels[channel] = spec
            peers |= {
                end.name: Peer(name=end.name, role=end.role, groups=end.groups, consumer=end.name in layout.trainers)
                for end in ends
            }
            for tag in roles[worker.role]:
                tags[tag].append(channel)
    trains, is_root = worker.name in layout.trainers, ("distribute" in tags or "ring_allreduce" in tags) and "fetch" not in tags
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
        selector=job.selector(),
        sampler=job.sampler(),
        privacy=job.privacy(),
        population=len(layout.below(worker)),
        reporter=Reporter(records[worker.name]),
        folder=job.folder if is_root else None,
        state_folder=None if job.states is None else job.states / worker.name,
        resume=job.resume,
        build_module=job.modules.get(worker.name, job.build_module),
        build_data=job.data[layout.trainers.index(worker.name)] if trains else None,
        build_test_data=job.build_test_data if is_root else None,
        build_trainer_options=job.options,
        overlap=job.overlap,
    )
