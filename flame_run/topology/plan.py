"""The plan of a job: its workers, their groups and peers. Frozen values, no torch."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from roles.tags import AGGREGATE, COORDINATE_WITH, DISTRIBUTE, FETCH, RING_ALLREDUCE

AT_SITE = "site://"
"""How the URL of a dataset begins whose place only its site knows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """One dataset after `count` was expanded: exactly one worker's data."""

    name: str
    url: str
    realm: str
    data_format: str = ""
    description: str = ""
    is_public: bool = False
    partition: Mapping[str, Any] | None = None
    """`{strategy, index, of, ...}` of the cut of the source, None for all of it."""

    @property
    def at_site(self) -> bool:
        """Whether only the site of its worker knows where the data lie (`launcher=external`)."""
        return self.url.startswith(AT_SITE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Worker:
    """One resolved vertex instance."""

    name: str
    """`ROLE-INDEX`."""
    task_id: str
    """40 hex digits, derived from job and worker."""
    role: str
    index: int
    groups: Mapping[str, str]
    """Channel name -> the label that this worker joins there."""
    realm: str
    dataset: Dataset | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Channel:
    """An edge of the graph after expansion."""

    name: str
    pair: tuple[str, str]
    """The two role names; the same name twice for a channel among equals."""
    backend: str
    """`auto`, `grpc`, `shm` or `inproc`."""
    func_tags: Mapping[str, tuple[str, ...]]
    """Role name -> the functions it performs on this channel."""
    groups: Mapping[str, Mapping[str, tuple[str, ...]]] = field(default_factory=dict)
    """Label -> role name -> worker names in the order of the plan."""

    @property
    def among_equals(self) -> bool:
        """Whether both ends are of the same role."""
        return self.pair[0] == self.pair[1]

    def other(self, role: str) -> str:
        """Name the role at the other side; the same one on a channel among equals."""
        return self.pair[1] if self.pair[0] == role else self.pair[0]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A validated, expanded job."""

    job_id: str
    """24 hex digits derived from the three documents, or the job's own `id`."""
    job_name: str
    schema_name: str
    code: Mapping[str, str]
    """Role name -> import path of the class attached to it, such as `roles.Trainer`."""
    workers: tuple[Worker, ...]
    channels: tuple[Channel, ...]
    evaluation: Dataset | None = None
    """Whose test split the roots evaluate on: `job.evaluate.dataset`, else the first dataset of the plan that this machine has."""
    dial_only: frozenset[str] = frozenset()
    """Names of the workers that nobody can dial (`job.roles.ROLE.dialOnly`)."""

    @cached_property
    def _workers(self) -> Mapping[str, Worker]:
        return {worker.name: worker for worker in self.workers}

    @cached_property
    def _order(self) -> Mapping[str, int]:
        return {worker.name: position for position, worker in enumerate(self.workers)}

    @cached_property
    def _channels(self) -> Mapping[str, Channel]:
        return {channel.name: channel for channel in self.channels}

    def worker(self, name: str) -> Worker:
        """Look a worker up by name.

        Raises:
            KeyError: there is none of that name.
        """
        return self._workers[name]

    def channel(self, name: str) -> Channel:
        """Look a channel up by name.

        Raises:
            KeyError: there is none of that name.
        """
        return self._channels[name]

    def ends(self, worker: str, channel: str) -> tuple[str, ...]:
        """List the peers of `worker` on `channel`, in the order of the plan: those of the other role in its group.

        On a channel among equals: all others of its group.

        Raises:
            KeyError: no such worker or channel, or the worker is not on it.
        """
        here, edge = self.worker(worker), self.channel(channel)
        group = edge.groups[here.groups[channel]]
        return tuple(name for name in group.get(edge.other(here.role), ()) if name != worker)

    def hosts(self, channel: str) -> str:
        """Name the role whose workers listen on `channel`; the other one dials.

        It is the role that binds `distribute`, `aggregate` or a `coordinateWith...`; else the one that consumes no
        data; else the first of the pair. On a channel among equals everyone listens, see `dials`.
        """
        edge = self.channel(channel)
        listening = [role for role in edge.pair if _listens(edge.func_tags.get(role, ()))]
        idle = [role for role in edge.pair if role not in self._consumers]
        return (listening or idle or list(edge.pair))[0]

    @cached_property
    def _consumers(self) -> frozenset[str]:
        return frozenset(worker.role for worker in self.workers if worker.dataset is not None)

    def dials(self, worker: str, channel: str) -> tuple[str, ...]:
        """List the ends that `worker` connects to on `channel`; the others connect to it.

        On a channel among equals a worker dials those that stand before it in the plan. A worker that can only dial
        out dials in any case.

        Raises:
            KeyError: as `ends`.
        """
        ends, edge = self.ends(worker, channel), self.channel(channel)
        if edge.among_equals:
            usual = {end for end in ends if self._order[end] < self._order[worker]}
        else:
            usual = set() if self.worker(worker).role == self.hosts(channel) else set(ends)
        return tuple(end for end in ends if self._dials(worker, end, usual=end in usual))

    def _dials(self, worker: str, end: str, *, usual: bool) -> bool:
        mine, its = worker in self.dial_only, end in self.dial_only
        return usual if mine == its else mine

    def distributes_on(self, worker: str) -> tuple[str, ...]:
        """List the channels on which `worker` hands models down, in the order of the plan."""
        here = self.worker(worker)
        return tuple(
            channel.name
            for channel in self.channels
            if channel.name in here.groups and DISTRIBUTE in channel.func_tags.get(here.role, ())
        )

    def below(self, worker: str) -> frozenset[str]:
        """Names of the data consumers that train what `worker` hands down, through any number of levels; it itself is none."""
        ends = {end for channel in self.distributes_on(worker) for end in self.ends(worker, channel)}
        return frozenset(name for end in ends for name in ([end] if self.worker(end).dataset is not None else self.below(end)))

    @cached_property
    def roots(self) -> tuple[str, ...]:
        """Names of the workers that own a global model: their role binds `distribute` and no `fetch`.

        In a ring without aggregators the first worker of each group is the root, see `heirs`. Where there is neither, the
        lowest-named worker.
        """
        distributing = [worker for worker in self.workers if DISTRIBUTE in self._bound[worker.role]]
        roots = {worker.name for worker in distributing if not self._fetches(worker.role)} | set(self.heirs)
        return tuple(worker.name for worker in self.workers if worker.name in roots) or tuple(sorted(self._workers)[:1])

    @cached_property
    def heirs(self) -> Mapping[str, tuple[str, ...]]:
        """The root of each ring without aggregators -> the others of that ring, in the order in which they take its place."""
        rings = [
            names
            for channel in self.channels
            for role, tags in channel.func_tags.items()
            if RING_ALLREDUCE in tags and not self._fetches(role)
            for group in channel.groups.values()
            if (names := group.get(role, ()))
        ]
        return {names[0]: names[1:] for names in rings}

    def root_of(self, worker: str) -> str | None:
        """Name the root that `worker` is, or whose place it may take; None if there is none."""
        heir_of = next((root for root, heirs in self.heirs.items() if worker in heirs), None)
        return worker if worker in self.roots else heir_of

    @cached_property
    def _bound(self) -> Mapping[str, set[str]]:
        """Role -> the functions that it performs on any channel."""
        bound: dict[str, set[str]] = {}
        for channel in self.channels:
            for role, tags in channel.func_tags.items():
                bound.setdefault(role, set()).update(tags)
        return bound

    def _fetches(self, role: str) -> bool:
        return FETCH in self._bound[role]


def _listens(tags: tuple[str, ...]) -> bool:
    return any(tag in (DISTRIBUTE, AGGREGATE) or tag.startswith(COORDINATE_WITH) for tag in tags)


def plan_to_json(plan: Plan) -> dict[str, Any]:
    """Write a plan as the JSON object of `flame-run plan --json` and `plan.json` (design 2.5)."""
    return {
        "job": {
            "id": plan.job_id,
            "name": plan.job_name,
            "schema": plan.schema_name,
            "code": dict(plan.code),
            "roots": list(plan.roots),
        },
        "workers": [
            {
                "name": worker.name,
                "task_id": worker.task_id,
                "role": worker.role,
                "groups": dict(worker.groups),
                "dataset": worker.dataset.name if worker.dataset is not None else None,
                "realm": worker.realm,
            }
            for worker in plan.workers
        ],
        "channels": [
            {
                "name": channel.name,
                "groups": {label: {role: list(names) for role, names in group.items()} for label, group in channel.groups.items()},
            }
            for channel in plan.channels
        ],
    }
