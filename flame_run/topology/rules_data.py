"""Rules of the dataset spec: names, uses, URLs, and who gets data."""

from collections.abc import Callable, Iterator

from flame_run.documents.place import place
from flame_run.documents.spelling import legal_values
from flame_run.errors import Problem
from flame_run.topology.graph import Graph
from flame_run.topology.spec import Assignment, DatasetSpec, Job, Use

CheckUrl = Callable[[str], str | None]
"""Says why a URL cannot be used, None if it looks usable."""


def check_datasets(graph: Graph, spec: DatasetSpec, job: Job, check_url: CheckUrl | None) -> list[Problem]:
    """Everything that is wrong with the dataset spec, given the graph."""
    rules = (
        _unique_names(spec),
        _parts(spec),
        _urls(spec, check_url),
        _roles(graph, spec),
        _uses(spec),
        _everyone_has_data(graph, spec),
        _evaluation(spec, job),
    )
    return [problem for rule in rules for problem in rule]


def _unique_names(spec: DatasetSpec) -> Iterator[Problem]:
    first: dict[str, str] = {}
    for source in spec.sources:
        where = place("dataset", "datasets", source.at, "name", of=str(source))
        ours = {*(dataset.name for dataset in source.datasets), source.name}
        taken = next((name for name in (source.name, *(dataset.name for dataset in source.datasets)) if name in first), None)
        if taken is not None:
            yield Problem(where, taken, f"the name is taken: datasets need unique names, and {first[taken]} has it")
        for name in ours:
            first.setdefault(name, where)
        alias = source.alias
        if alias is not None and alias not in ours:
            if alias in first:
                reason = f"the id is taken: {first[alias]} has it"
                yield Problem(place("dataset", "datasets", source.at, "id", of=str(source)), alias, reason)
            first.setdefault(alias, where)


def _parts(spec: DatasetSpec) -> Iterator[Problem]:
    for source in spec.sources:
        partition = source.datasets[0].partition or {}
        index, of = partition.get("index"), partition.get("of")
        if isinstance(index, int) and isinstance(of, int) and 1 <= of <= index:
            where = place("dataset", "datasets", source.at, "partition", "index", of=str(source))
            yield Problem(where, index, f"there are {of} parts, and the index counts from 0", f"0 to {of - 1}")


def _urls(spec: DatasetSpec, check_url: CheckUrl | None) -> Iterator[Problem]:
    for source in spec.sources:
        url = source.datasets[0].url
        reason = check_url(url) if check_url is not None and url else None
        if reason:
            yield Problem(place("dataset", "datasets", source.at, "url", of=str(source)), url, reason)


def _roles(graph: Graph, spec: DatasetSpec) -> Iterator[Problem]:
    first: dict[str, int] = {}
    consumers = [role.name for role in graph.roles_in_order() if role.is_data_consumer is not False]
    for entry in spec.assignments:
        where = place("dataset", "dataSpec", entry.at, "role", of=f"role {entry.role}")
        role = graph.role_by_name.get(entry.role)
        if role is None and graph.complete:
            yield Problem(where, entry.role, "the schema has no such role", legal_values(entry.role, consumers))
        if role is not None and role.is_data_consumer is False:
            reason = "the role is not a data consumer, so it gets no datasets"
            yield Problem(where, entry.role, reason, legal_values(entry.role, consumers))
        if entry.role in first:
            reason = f"the role has its datasets already, at {place('dataset', 'dataSpec', first[entry.role])}"
            yield Problem(where, entry.role, reason, "one entry for each role")
        first.setdefault(entry.role, entry.at)


def _uses(spec: DatasetSpec) -> Iterator[Problem]:
    used: dict[str, str] = {}
    known = [name for source in spec.sources for name in (source.name, source.alias) if name is not None]
    for role, use in [(entry.role, use) for entry in spec.assignments for use in entry.uses]:
        where = place("dataset", *use.path, of=f"role {role}")
        if use.name not in spec.by_name:
            if spec.complete:
                yield Problem(where, use.name, "there is no such dataset", legal_values(use.name, known))
            continue
        _, datasets = spec.by_name[use.name]
        again = next((dataset.name for dataset in datasets if dataset.name in used), None)
        if again is not None:
            reason = f"dataset {again!r} is used already, at {used[again]}; a dataset makes one worker"
            yield Problem(where, use.name, reason)
        for dataset in datasets:
            used.setdefault(dataset.name, place("dataset", *use.path))


def _everyone_has_data(graph: Graph, spec: DatasetSpec) -> Iterator[Problem]:
    served = {entry.role for entry in spec.assignments}
    # a role misspelt in dataSpec is told there, as is an entry that cannot be read
    if not spec.complete or (graph.complete and not served <= set(graph.role_by_name)):
        return
    for role in graph.roles_in_order():
        if role.is_data_consumer and role.name not in served:
            where = place("schema", "roles", role.at, of=str(role))
            yield Problem(where, role.name, "the data consumer has no datasets", "an entry of dataset.dataSpec for it")


def _evaluation(spec: DatasetSpec, job: Job) -> Iterator[Problem]:
    name = job.evaluate_dataset
    if name is not None and spec.complete and name not in spec.by_name:
        known = [source.name for source in spec.sources]
        yield Problem("job.evaluate.dataset", name, "there is no such dataset", legal_values(name, known))


def assignment_of(spec: DatasetSpec, role: str) -> Assignment | None:
    """Find the first entry of `dataSpec` for `role`."""
    return next((entry for entry in spec.assignments if entry.role == role), None)


def resolvable(spec: DatasetSpec, uses: tuple[Use, ...]) -> bool:
    """Tell whether every name exists and every dataset it means has a realm."""
    return all(use.name in spec.by_name and all(dataset.realm for dataset in spec.by_name[use.name][1]) for use in uses)
