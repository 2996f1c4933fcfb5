"""Rules of the expanded graph: every group has somebody at both ends, and nobody has two to fetch from."""

from collections.abc import Iterator, Mapping, Sequence

from flame_run.documents.place import place
from flame_run.errors import Problem
from flame_run.topology.graph import Edge, Graph
from roles.tags import COORDINATE, COORDINATE_WITH, DISTRIBUTE, FETCH, RING_ALLREDUCE

Members = Mapping[str, Mapping[str, Sequence[str]]]
"""Label -> role -> names of its workers there."""
SHOWN = 4


def check_groups(graph: Graph, members: Mapping[str, Members]) -> list[Problem]:
    """Everything that is wrong with the groups of the channels in `members` (channel -> its groups)."""
    problems: list[Problem] = []
    for edge in graph.edges_in_order():
        for label, group in members.get(edge.name, {}).items():
            found = list(_both_ends(edge, label, group))
            problems += found or _one_source(graph, edge, label, group)
    return problems


def _where(edge: Edge, label: str) -> str:
    path = ("groupBy", "value", (edge.labels or ()).index(label)) if edge.grouped else ()
    return place("schema", "channels", edge.at, *path, of=str(edge))


def _both_ends(edge: Edge, label: str, group: Mapping[str, Sequence[str]]) -> Iterator[Problem]:
    assert edge.pair is not None, edge.name
    if edge.among_equals:
        alone = group.get(edge.pair[0], ())
        if len(alone) == 1 and RING_ALLREDUCE not in edge.tags(edge.pair[0]):
            yield Problem(_where(edge, label), label, f"{alone[0]} is alone in this group of a channel among equals")
        return
    for role in edge.pair:
        if not group.get(role):
            others = group.get(edge.other(role), ())
            reason = f"the group has workers of role {edge.other(role)} ({_names(others)}) and none of role {role}"
            yield Problem(_where(edge, label), label, reason, "every group needs workers at both ends")


def _one_source(graph: Graph, edge: Edge, label: str, group: Mapping[str, Sequence[str]]) -> Iterator[Problem]:
    assert edge.pair is not None, edge.name
    for role in () if edge.among_equals else edge.pair:
        across = group.get(edge.other(role), ())
        if len(across) <= 1:
            continue
        bound = {tag for link in graph.edges_of(role) for tag in link.tags(role)}
        if FETCH in edge.tags(role) and DISTRIBUTE in edge.tags(edge.other(role)) and COORDINATE not in bound:
            several = f"{len(across)} workers ({_names(across)})"
            reason = f"{several} distribute to role {role}, and no coordinator says which one it fetches from"
            legal = f"one worker of role {edge.other(role)} in each group, or {COORDINATE!r} bound for role {role}"
            yield Problem(_where(edge, label), label, reason, legal)
        if COORDINATE in edge.tags(role) and any(tag.startswith(COORDINATE_WITH) for tag in edge.tags(edge.other(role))):
            reason = f"{len(across)} workers ({_names(across)}) coordinate role {role} in this group"
            yield Problem(_where(edge, label), label, reason, "one coordinator in each group")


def _names(workers: Sequence[str]) -> str:
    more = len(workers) - SHOWN
    return ", ".join(workers[:SHOWN]) + (f" and {more} more" if more > 0 else "")
