"""Rules of the graph itself: names, pairs, connectedness, data consumers, associations, depth of groups."""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence

from flame_run.documents.place import place
from flame_run.documents.spelling import legal_values
from flame_run.errors import Problem
from flame_run.topology.graph import Edge, Graph, Role
from flame_run.topology.paths import is_prefix
from roles.tags import AGGREGATE, DISTRIBUTE, FETCH, UPLOAD


def check_graph(graph: Graph) -> list[Problem]:
    """Everything that is wrong with the graph, whatever code is attached and whatever data there is."""
    rules = (
        _unique("roles", "role", graph.roles),
        _unique("channels", "channel", graph.edges),
        _known_pairs(graph),
        _connected(graph),
        _consumers(graph),
        _replicas(graph),
        _deeper_groups_upwards(graph),
    )
    return [problem for rule in rules for problem in rule]


def _unique(key: str, kind: str, entries: Sequence[Role | Edge]) -> Iterator[Problem]:
    first: dict[str, int] = {}
    for entry in entries:
        if entry.name in first:
            reason = f"the name is taken: {kind}s need unique names, and {place('schema', key, first[entry.name])} has it"
            yield Problem(place("schema", key, entry.at, "name", of=str(entry)), entry.name, reason)
        first.setdefault(entry.name, entry.at)


def _known_pairs(graph: Graph) -> Iterator[Problem]:
    if not graph.complete:
        return
    for edge in graph.edges:
        for at, role in enumerate(edge.pair or ()):
            if role not in graph.role_by_name:
                where = place("schema", "channels", edge.at, "pair", at, of=str(edge))
                yield Problem(where, role, "there is no such role", legal_values(role, graph.role_by_name))


def pairs_are_known(graph: Graph) -> bool:
    """Tell whether every channel connects two roles that exist."""
    return graph.complete and all(edge.pair is not None and set(edge.pair) <= set(graph.role_by_name) for edge in graph.edges)


def islands(graph: Graph) -> list[list[str]]:
    """List the sets of roles that channels connect, each in the order of the schema."""
    left = list(graph.role_by_name)
    found: list[list[str]] = []
    while left:
        reached = {left[0]}
        queue = deque(reached)
        while queue:
            role = queue.popleft()
            new = {edge.other(role) for edge in graph.edges_of(role)} - reached
            reached |= new
            queue.extend(new)
        found.append([role.name for role in graph.roles_in_order() if role.name in reached])
        left = [role for role in left if role not in reached]
    return found


def _connected(graph: Graph) -> Iterator[Problem]:
    if not pairs_are_known(graph):
        return
    lonely = [role for role in graph.roles_in_order() if not graph.edges_of(role.name)]
    for role in lonely:
        yield Problem(
            place("schema", "roles", role.at, of=str(role)), role.name, "the role is in no channel, so nothing reaches it"
        )
    found = [island for island in islands(graph) if graph.edges_of(island[0])]
    if len(found) > 1:
        names = "; ".join(", ".join(island) for island in found)
        yield Problem("schema.channels", names, f"the graph is not connected: it falls into {len(found)} islands")


def _consumers(graph: Graph) -> Iterator[Problem]:
    judged = graph.complete and all(role.is_data_consumer is not None for role in graph.roles)
    if judged and not any(role.is_data_consumer for role in graph.roles):
        names = [role.name for role in graph.roles]
        yield Problem("schema.roles", names, "no role has isDataConsumer: true, so nobody trains")
    for edge in graph.edges:
        roles = [graph.role_by_name.get(name) for name in edge.pair or ()]
        if not edge.among_equals and roles and all(role is not None and role.is_data_consumer for role in roles):
            reason = "two different data consumers cannot be paired directly"
            yield Problem(place("schema", "channels", edge.at, "pair", of=str(edge)), list(edge.pair or ()), reason)


def _replicas(graph: Graph) -> Iterator[Problem]:
    for role in graph.roles:
        if role.sets_replica and role.is_data_consumer:
            reason = "replica cannot be set on a data consumer: it gets one worker for each dataset"
            yield Problem(place("schema", "roles", role.at, "replica", of=str(role)), role.replica, reason)


def check_associations(graph: Graph) -> tuple[set[str], list[Problem]]:
    """Check every map of `groupAssociation`; answers the roles that have a wrong one, too."""
    wrong: set[str] = set()
    problems: list[Problem] = []
    for role in graph.roles_in_order():
        if role.associations is None or not graph.on_sound_edges(role.name):
            continue
        for at in range(len(role.associations)):
            found = list(_association(graph, role, at))
            problems += found
            wrong |= {role.name} if found else set()
    return wrong, problems


def _association(graph: Graph, role: Role, at: int) -> Iterator[Problem]:
    edges = {edge.name: edge for edge in graph.edges_of(role.name)}
    association = (role.associations or ())[at]

    def where(*path: str) -> str:
        return place("schema", "roles", role.at, "groupAssociation", at, *path, of=str(role))

    for channel, label in association.items():
        if channel not in edges:
            reason = "the role is not on this channel" if channel in graph.edge_by_name else "there is no such channel"
            yield Problem(where(channel), channel, reason, legal_values(channel, edges))
        elif label not in (labels := edges[channel].labels or ()):
            yield Problem(where(channel), label, f"channel {channel} has no such label", legal_values(label, labels))
    for channel, edge in edges.items():
        if channel not in association:
            reason = f"the map does not name channel {channel}, which the role is on"
            yield Problem(where(), dict(association), reason, f"a label of it: {', '.join(edge.labels or ())}")


def binds_up(edge: Edge, role: str) -> bool:
    """Tell whether `role` sends upwards on `edge`: it binds `fetch` or `upload`."""
    return not edge.among_equals and bool({FETCH, UPLOAD} & set(edge.tags(role)))


def binds_down(edge: Edge, role: str) -> bool:
    """Tell whether `role` sends downwards on `edge`: it binds `distribute` or `aggregate`."""
    return not edge.among_equals and bool({DISTRIBUTE, AGGREGATE} & set(edge.tags(role)))


def _upward(graph: Graph, role: str) -> Iterable[Edge]:
    return (edge for edge in graph.edges_of(role) if binds_up(edge, role) and binds_down(edge, edge.other(role)))


def _edges_above(graph: Graph, edge: Edge, lower: str) -> Iterator[Edge]:
    """Every channel further up than `edge`, whose lower end is `lower`; the nearest ones first."""
    queue, seen = deque([edge.other(lower)]), {edge.other(lower)}
    while queue:
        role = queue.popleft()
        for above in _upward(graph, role):
            yield above
            if above.other(role) not in seen:
                seen.add(above.other(role))
                queue.append(above.other(role))


def _deeper_groups_upwards(graph: Graph) -> Iterator[Problem]:
    told: set[tuple[int, str]] = set()
    steps = [
        (below, above)
        for role in graph.roles_in_order()
        for below in _upward(graph, role.name)
        for above in _edges_above(graph, below, role.name)
    ]
    for below, above in steps:
        for at, label in enumerate(above.labels or ()):
            wider = next((lower for lower in below.labels or () if lower != label and is_prefix(lower, label)), None)
            if wider is None or (above.at, label) in told:
                continue
            told.add((above.at, label))
            where = place("schema", "channels", above.at, *(("groupBy", "value", at) if above.grouped else ()), of=str(above))
            reason = f"groupBy gets more specific upwards: channel {below.name}, further down, groups by {wider!r}"
            yield Problem(where, label, reason, f"a label that does not lie within {wider!r}, or a deeper one further down")


def circle_upwards(graph: Graph) -> list[str]:
    """Find roles that fetch from each other in a circle, in its order; empty where there is none."""
    done: set[str] = set()

    def walk(passed: list[str]) -> list[str]:
        for above in _upward(graph, passed[-1]):
            upper = above.other(passed[-1])
            if upper in passed:
                return passed[passed.index(upper) :]
            if upper not in done and (circle := walk([*passed, upper])):
                return circle
        done.add(passed[-1])
        return []

    return next((circle for role in graph.roles_in_order() if role.name not in done and (circle := walk([role.name]))), [])
