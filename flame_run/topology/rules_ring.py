"""Rules of rings: workers of one role that average among themselves (`ring_allreduce`)."""

from collections.abc import Iterator, Mapping

from flame_run.documents.place import place
from flame_run.errors import Problem
from flame_run.topology.graph import Edge, Graph
from flame_run.topology.rules_groups import Members
from roles.tags import COORDINATE, FETCH, RING_ALLREDUCE


def check_rings(graph: Graph, members: Mapping[str, Members]) -> list[Problem]:
    """Everything that is wrong with the channels that bind `ring_allreduce`; `members`: channel -> its groups."""
    problems: list[Problem] = []
    for edge in graph.edges_of_known_roles():
        for role in dict.fromkeys(edge.pair or ()):
            if RING_ALLREDUCE in edge.tags(role):
                problems += [
                    *_among_equals(edge, role),
                    *_coordinated(graph, edge, role),
                    *_one_aggregator(graph, edge, role, members),
                ]
    return problems


def _where(edge: Edge, role: str) -> str:
    return place("schema", "channels", edge.at, "funcTags", role, edge.tags(role).index(RING_ALLREDUCE), of=str(edge))


def _among_equals(edge: Edge, role: str) -> Iterator[Problem]:
    if not edge.among_equals:
        reason = f"a ring is of workers of one role, and this channel pairs {role!r} with {edge.other(role)!r}"
        yield Problem(_where(edge, role), RING_ALLREDUCE, reason, f"a channel with the pair [{role}, {role}]")


def _coordinated(graph: Graph, edge: Edge, role: str) -> Iterator[Problem]:
    if any(COORDINATE in link.tags(role) for link in graph.edges_of(role)):
        reason = f"role {role!r} binds {COORDINATE!r} too: a coordinator would tear the ring apart from round to round"
        yield Problem(_where(edge, role), RING_ALLREDUCE, reason, f"one of {RING_ALLREDUCE} and {COORDINATE}")


def _one_aggregator(graph: Graph, edge: Edge, role: str, members: Mapping[str, Members]) -> Iterator[Problem]:
    """One member hands the mean up for its whole group, so that all of it must be below the same aggregator."""
    for link in graph.edges_of(role):
        if link.among_equals or FETCH not in link.tags(role) or link.name not in members:
            continue
        label_of = {name: label for label, group in members[link.name].items() for name in group.get(role, ())}
        for label, group in members.get(edge.name, {}).items():
            labels = sorted({label_of[name] for name in group.get(role, ()) if name in label_of})
            if len(labels) > 1:
                reason = f"the ring of group {label} has members in the groups {', '.join(labels)} of channel {link.name}"
                legal = f"groups of {edge.name} that lie within one group of {link.name}"
                yield Problem(_where(edge, role), RING_ALLREDUCE, reason, legal)
