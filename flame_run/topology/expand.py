"""Expansion: from roles, channels and datasets to seats, one for each worker (design 2.2).

Order: roles as the schema lists them; within a data consumer its datasets as `dataSpec` lists them; within
another role its associations (or the labels of its most specific channel) as listed, each `replica` times.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from flame_run.documents.place import place
from flame_run.documents.spelling import legal_values
from flame_run.errors import Problem
from flame_run.topology.graph import DEFAULT_LABEL, Edge, Graph, Role
from flame_run.topology.paths import depth, is_prefix, longest_prefix
from flame_run.topology.plan import Dataset
from flame_run.topology.rules_data import assignment_of, resolvable
from flame_run.topology.spec import DatasetSpec, Source, Use

Groups = Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Seat:
    """A worker without its name."""

    groups: Groups
    """Channel -> label."""
    realm: str
    dataset: Dataset | None = None


class Unfit(Exception):
    """A worker that fits nowhere; carries the problem."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(str(problem))
        self.problem = problem


def expand_role(graph: Graph, spec: DatasetSpec, role: Role) -> tuple[list[Seat], list[Problem]]:
    """List the seats of `role`, all of whose documents are readable, and what keeps others from having one."""
    edges = graph.edges_of(role.name)
    if role.is_data_consumer:
        return _expand_consumer(role, edges, spec)
    try:
        groups = _of_associations(role) if role.associations is not None else _of_labels(role, edges)
    except Unfit as error:
        return [], [error.problem]
    lead = _most_specific(edges)
    realms = [group.get(lead[0].name, DEFAULT_LABEL) if lead else DEFAULT_LABEL for group in groups]
    count = range(role.replica or 1)
    return [Seat(groups=group, realm=realm) for group, realm in zip(groups, realms, strict=True) for _ in count], []


def can_expand(graph: Graph, spec: DatasetSpec, role: Role) -> bool:
    """Tell whether all that the expansion of `role` needs could be read, so that it adds no echo of other problems."""
    if not role.sound or not graph.on_sound_edges(role.name):
        return False
    entry = assignment_of(spec, role.name)
    return not role.is_data_consumer or (entry is not None and entry.sound and resolvable(spec, entry.uses))


def _of_associations(role: Role) -> Sequence[Groups]:
    return role.associations or ()


def _most_specific(edges: Sequence[Edge]) -> list[Edge]:
    """Channels with the deepest labels; one without `groupBy` takes every realm, so any grouped one is deeper."""
    if not edges:
        return []
    depths = [depth(edge.labels or ()) if edge.grouped else 0 for edge in edges]
    return [edge for edge, deep in zip(edges, depths, strict=True) if deep == max(depths)]


def _of_labels(role: Role, edges: Sequence[Edge]) -> Sequence[Groups]:
    deepest = _most_specific(edges)
    if not deepest:
        return []
    lead = deepest[0]
    for edge in deepest[1:]:
        if set(edge.labels or ()) != set(lead.labels or ()):
            both = f"channels {lead.name} and {edge.name}"
            reason = f"the workers of role {role.name} cannot be derived: its {both} are equally specific and differ in labels"
            where = place("schema", "channels", edge.at, "groupBy", "value", of=str(edge))
            legal = f"the labels of {lead.name}: {', '.join(lead.labels or ())}; or a groupAssociation for the role"
            raise Unfit(Problem(where, list(edge.labels or ()), reason, legal))
    return [{edge.name: _fitting(role, lead, edge, label) for edge in edges} for label in lead.labels or ()]


def _fitting(role: Role, lead: Edge, edge: Edge, label: str) -> str:
    if not edge.grouped:
        return DEFAULT_LABEL
    fitting = longest_prefix(label, edge.labels or ())
    if fitting is None:
        reason = f"role {role.name} has label {label!r} on channel {lead.name}, and no label of this channel is a path prefix of it"
        where = place("schema", "channels", edge.at, "groupBy", "value", of=str(edge))
        raise Unfit(Problem(where, list(edge.labels or ()), reason, f"candidates: {', '.join(edge.labels or ())}"))
    return fitting


def _expand_consumer(role: Role, edges: Sequence[Edge], spec: DatasetSpec) -> tuple[list[Seat], list[Problem]]:
    seats: list[Seat] = []
    problems: dict[tuple[str, str], Problem] = {}
    for use in _uses(spec, role):
        source, datasets = spec.by_name[use.name]
        for dataset in datasets:
            try:
                groups = _groups_of_consumer(role, edges, use, source, dataset)
            except Unfit as error:
                problems.setdefault((error.problem.place, error.problem.reason), error.problem)
            else:
                seats.append(Seat(groups=groups, realm=dataset.realm, dataset=dataset))
    return seats, list(problems.values())


def _uses(spec: DatasetSpec, role: Role) -> Iterator[Use]:
    entry = assignment_of(spec, role.name)
    yield from entry.uses if entry is not None else ()


def _groups_of_consumer(role: Role, edges: Sequence[Edge], use: Use, source: Source, dataset: Dataset) -> Groups:
    if role.associations is None:
        return _by_realm(role, edges, use, source, dataset)
    if use.group is not None:
        return _by_group(role, use)
    if len(role.associations) == 1:
        return role.associations[0]
    ungrouped = {edge.name for edge in edges if not edge.grouped}
    fitting = [
        groups
        for groups in role.associations
        if all(channel in ungrouped or is_prefix(label, dataset.realm) for channel, label in groups.items())
    ]
    if len(fitting) == 1:
        return fitting[0]
    found = "no map" if not fitting else f"{len(fitting)} maps"
    reason = f"{found} of groupAssociation of role {role.name} has labels that are all path prefixes of this realm"
    legal = f"candidates: {'; '.join(_print(groups) for groups in fitting or role.associations)}"
    raise Unfit(Problem(place("dataset", "datasets", source.at, "realm", of=str(source)), dataset.realm, reason, legal))


def _by_group(role: Role, use: Use) -> Groups:
    associations = role.associations or ()
    fitting = [groups for groups in associations if use.group in groups.values()]
    if len(fitting) == 1:
        return fitting[0]
    found = "no map" if not fitting else f"{len(fitting)} maps"
    reason = f"{found} of groupAssociation of role {role.name} has this label, and exactly one must"
    labels = [label for groups in associations for label in groups.values()]
    raise Unfit(Problem(_place_of_group(role, use), use.group, reason, legal_values(use.group, labels)))


def _by_realm(role: Role, edges: Sequence[Edge], use: Use, source: Source, dataset: Dataset) -> Groups:
    if use.group is not None and not any(use.group in (edge.labels or ()) for edge in edges):
        labels = [label for edge in edges for label in edge.labels or ()]
        reason = f"no channel of role {role.name} has this label"
        raise Unfit(Problem(_place_of_group(role, use), use.group, reason, legal_values(use.group, labels)))
    groups: dict[str, str] = {}
    for edge in edges:
        labels = list(edge.labels or ())
        label = DEFAULT_LABEL if not edge.grouped else longest_prefix(dataset.realm, labels)
        if use.group is not None and use.group in labels:
            label = use.group
        if label is None:
            where = place("dataset", "datasets", source.at, "realm", of=str(source))
            reason = f"no label of channel {edge.name} is a path prefix of this realm, so role {role.name} joins no group there"
            raise Unfit(Problem(where, dataset.realm, reason, legal_values(dataset.realm, labels)))
        groups[edge.name] = label
    return groups


def _place_of_group(role: Role, use: Use) -> str:
    return place("dataset", *use.path[:-1], of=str(role))


def _print(groups: Groups) -> str:
    return "{" + ", ".join(f"{channel}: {label}" for channel, label in groups.items()) + "}"
