"""The dataset spec and the job as frozen values, read as leniently as the graph."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from flame_run.topology.graph import MOST, is_text_list
from flame_run.topology.paths import is_path
from flame_run.topology.plan import Dataset


@dataclass(frozen=True, kw_only=True)
class Source:
    """An entry of `dataset.datasets`: one dataset, or `partition.count` of them."""

    at: int
    """Its position in `dataset.datasets`."""
    name: str
    alias: str | None
    """Its `id`, if it has one: another name that `dataSpec` may use."""
    datasets: tuple[Dataset, ...]
    """What it stands for; with an empty realm if that could not be read."""

    def __str__(self) -> str:
        return f"dataset {self.name}"


@dataclass(frozen=True, kw_only=True)
class Use:
    """One name in a `dataSpec` entry."""

    path: tuple[str | int, ...]
    """Where it stands in the document."""
    group: str | None
    """The `datasetGroups` key it stands under; None if realms decide."""
    name: str


@dataclass(frozen=True, kw_only=True)
class Assignment:
    """An entry of `dataset.dataSpec`: the datasets of a role."""

    at: int
    role: str
    uses: tuple[Use, ...]
    sound: bool
    """Whether all of it could be read."""


@dataclass(frozen=True)
class DatasetSpec:
    """A dataset spec."""

    sources: tuple[Source, ...]
    assignments: tuple[Assignment, ...]
    complete: bool
    """Whether every dataset and every entry of `dataSpec` could be read."""

    @cached_property
    def by_name(self) -> Mapping[str, tuple[Source, tuple[Dataset, ...]]]:
        """Map every name that `dataSpec` may use to its source and the datasets that it means."""
        names: dict[str, tuple[Source, tuple[Dataset, ...]]] = {}
        for source in self.sources:
            for dataset in source.datasets:
                names.setdefault(dataset.name, (source, (dataset,)))
        for source in self.sources:
            for name in (source.name, source.alias):
                if name is not None:
                    names.setdefault(name, (source, source.datasets))
        return names


@dataclass(frozen=True, kw_only=True)
class Job:
    """The part of the job that the plan depends on."""

    id: str | None
    name: str
    code: Mapping[str, str | None]
    """Role -> import path as written; None where it is null."""
    roles: tuple[str, ...]
    """The keys of `job.roles`."""
    evaluate_dataset: str | None
    dial_only: Mapping[str, bool | tuple[str, ...]] = field(default_factory=dict)
    """Role -> whether its workers can only dial out, or the names of those that can only."""


def read_dataset_spec(document: Any) -> DatasetSpec:
    """Read the document `dataset`, whatever it holds."""
    content = document if isinstance(document, Mapping) else {}
    entries, assignments = content.get("datasets"), content.get("dataSpec")
    listed = isinstance(entries, list) and isinstance(assignments, list)
    sources = [_read_source(at, entry) for at, entry in enumerate(entries if isinstance(entries, list) else [])]
    uses = [_read_assignment(at, entry) for at, entry in enumerate(assignments if isinstance(assignments, list) else [])]
    return DatasetSpec(
        tuple(source for source in sources if source is not None),
        tuple(entry for entry in uses if entry is not None),
        listed and bool(entries) and bool(assignments) and None not in sources and None not in uses,
    )


def read_job(document: Any) -> Job:
    """Read the document `job`, whatever it holds."""
    content = document if isinstance(document, Mapping) else {}
    code, roles, evaluate = (content.get(key) for key in ("code", "roles", "evaluate"))
    dataset = evaluate.get("dataset") if isinstance(evaluate, Mapping) else None
    return Job(
        id=_text(content, "id") or None,
        name=_text(content, "name"),
        code={role: path for role, path in code.items() if path is None or isinstance(path, str)}
        if isinstance(code, Mapping)
        else {},
        roles=tuple(roles) if isinstance(roles, Mapping) else (),
        evaluate_dataset=dataset if isinstance(dataset, str) else None,
        dial_only=_dial_only(roles),
    )


def _dial_only(roles: Any) -> dict[str, bool | tuple[str, ...]]:
    found: dict[str, bool | tuple[str, ...]] = {}
    for role, options in roles.items() if isinstance(roles, Mapping) else ():
        value = options.get("dialOnly") if isinstance(options, Mapping) else None
        if isinstance(value, bool) or is_text_list(value):
            found[str(role)] = value if isinstance(value, bool) else tuple(value)
    return found


def _text(entry: Mapping[str, Any], key: str) -> str:
    value = entry.get(key)
    return value if isinstance(value, str) else ""


def _read_source(at: int, entry: Any) -> Source | None:
    if not isinstance(entry, Mapping) or not _text(entry, "name"):
        return None
    name, partition = _text(entry, "name"), entry.get("partition")
    # a seed of null is the seed of the job, as one that is not set
    partition = {key: value for key, value in partition.items() if value is not None} if isinstance(partition, Mapping) else None
    parts: list[tuple[str, Mapping[str, Any] | None]] = [(name, partition)]
    count = partition.pop("count", None) if partition is not None else None
    if isinstance(count, int) and 0 < count <= MOST and not isinstance(count, bool):
        parts = [(f"{name}-{index}", {**(partition or {}), "index": index, "of": count}) for index in range(count)]
    return Source(
        at=at, name=name, alias=_text(entry, "id") or None, datasets=tuple(_read_dataset(entry, part, cut) for part, cut in parts)
    )


def _read_dataset(entry: Mapping[str, Any], name: str, partition: Mapping[str, Any] | None) -> Dataset:
    return Dataset(
        name=name,
        url=_text(entry, "url"),
        realm=realm if is_path(realm := _text(entry, "realm")) else "",
        data_format=_text(entry, "dataFormat"),
        description=_text(entry, "description"),
        is_public=entry.get("isPublic") is True,
        partition=partition,
    )


def _read_assignment(at: int, entry: Any) -> Assignment | None:
    if not isinstance(entry, Mapping) or not _text(entry, "role"):
        return None
    groups, plain = entry.get("datasetGroups"), entry.get("datasets")
    written: list[tuple[tuple[str | int, ...], str | None, Any]] = []
    if isinstance(groups, Mapping):
        written += [(("datasetGroups", str(group)), str(group), names) for group, names in groups.items()]
    elif plain is not None:
        written.append((("datasets",), None, plain))
    uses = [
        Use(path=("dataSpec", at, *path, position), group=group, name=name)
        for path, group, names in written
        if is_text_list(names)
        for position, name in enumerate(names)
    ]
    sound = (groups is None) != (plain is None) and bool(written) and all(is_text_list(names) for _, _, names in written)
    return Assignment(at=at, role=_text(entry, "role"), uses=tuple(uses), sound=sound)
