"""Rules of `funcTags`: who binds which function on which channel, and whether both sides fit together."""

from collections.abc import Iterator, Mapping
from itertools import pairwise

from flame_run.documents.place import place
from flame_run.documents.spelling import legal_values, nearest
from flame_run.errors import Problem
from flame_run.topology.code import COORDINATOR, Code
from flame_run.topology.graph import Edge, Graph
from flame_run.topology.rules_graph import circle_upwards, pairs_are_known
from roles.tags import (
    AGGREGATE,
    COORDINATE,
    COORDINATE_WITH,
    COORDINATE_WITH_LEAF,
    COORDINATE_WITH_MIDDLE,
    COORDINATE_WITH_TOP,
    COORDINATE_WITH_TRAINER,
    DISTRIBUTE,
    FETCH,
    RING_ALLREDUCE,
    UPLOAD,
)

UPWARDS = (FETCH, UPLOAD)
DOWNWARDS = (DISTRIBUTE, AGGREGATE)
ESSENTIAL = {"roles.Trainer": (FETCH, UPLOAD), "roles.Aggregator": (DISTRIBUTE, AGGREGATE)}
"""Built-in class -> the functions without which it has nothing to do."""
ALONE = {"roles.Trainer": (RING_ALLREDUCE,)}
"""Built-in class -> a function that is enough by itself."""
NEEDED_OF_PARTNER = {
    COORDINATE_WITH_TOP: (DISTRIBUTE,),
    COORDINATE_WITH_MIDDLE: (DISTRIBUTE, FETCH),
    COORDINATE_WITH_LEAF: (DISTRIBUTE, FETCH),
    COORDINATE_WITH_TRAINER: (FETCH,),
}
"""What a coordinator's partner must do on its other channels; from the highest level to the lowest."""
OPTIONAL = (COORDINATE_WITH_LEAF,)
"""The levels that a coordinator can do without."""
Codes = Mapping[str, Code]


def check_tags(graph: Graph, codes: Codes) -> list[Problem]:
    """Everything that is wrong with `funcTags`, given the class attached to each role."""
    problems = [problem for edge in graph.edges for problem in (*_names_the_pair(edge), *_exposed(edge, codes))]
    problems += _bound_too_often(graph, codes)
    sound = [edge for edge in graph.edges_of_known_roles() if _is_sound(edge, codes)]
    problems += [problem for edge in sound for problem in (*_both_directions(edge), *_coordination(edge))]
    if len(sound) == len(graph.edges) and pairs_are_known(graph):
        problems += [problem for edge in sound for problem in _partners(graph, edge)]
        problems += _half_coordinators(graph, codes)
        problems += [] if problems else _levels_of_coordinators(graph)
        problems += _no_root(graph)
    return problems


def _where(edge: Edge, *path: str | int) -> str:
    return place("schema", "channels", edge.at, "funcTags", *path, of=str(edge))


def _names_the_pair(edge: Edge) -> Iterator[Problem]:
    if edge.pair is None or edge.func_tags is None:
        return
    extra = [role for role in edge.func_tags if role not in edge.pair]
    missing = [role for role in dict.fromkeys(edge.pair) if role not in edge.func_tags]
    for role in extra:
        reason = "funcTags names a role that is not one of the pair"
        yield Problem(_where(edge, role), role, reason, legal_values(role, missing or edge.pair))
    meant = {nearest(role, missing) for role in extra}
    for role in missing:
        if role not in meant:
            yield Problem(
                _where(edge),
                sorted(edge.func_tags),
                f"funcTags lacks {role!r}, a role of the pair",
                "exactly the roles of the pair",
            )


def _exposed(edge: Edge, codes: Codes) -> Iterator[Problem]:
    for role, tags in (edge.func_tags or {}).items():
        code = codes.get(role)
        if code is None or code.tags is None or (edge.pair is not None and role not in edge.pair):
            continue
        for at, tag in enumerate(tags):
            if tag not in code.tags:
                yield Problem(
                    _where(edge, role, at), tag, f"class {code.path} exposes no such function", legal_values(tag, code.tags)
                )


def _bound_too_often(graph: Graph, codes: Codes) -> Iterator[Problem]:
    for role in graph.roles_in_order():
        code, bound = codes.get(role.name), dict[str, list[Edge]]()
        for edge in graph.edges_of(role.name):
            for at, tag in enumerate(edge.tags(role.name)):
                if code is None or code.tags is None or tag not in code.tags:
                    continue
                edges = bound.setdefault(tag, [])
                if edge in edges:
                    continue
                edges.append(edge)
                most = code.channels.get(tag, 1)
                if len(edges) > most:
                    names = ", ".join(edge.name for edge in edges[:most])
                    count = f"{most} channel{'s' * (most > 1)}"
                    reason = f"class {code.path} can serve {tag!r} on {count}, and it is bound to {names} already"
                    yield Problem(_where(edge, role.name, at), tag, reason)


def _is_sound(edge: Edge, codes: Codes) -> bool:
    """Whether everything that the fit of both sides depends on is right, so that its rules add no echo."""
    if edge.pair is None or edge.func_tags is None or set(edge.func_tags) != set(edge.pair):
        return False
    known = [codes[role].tags for role in edge.pair if role in codes]
    return len(known) == len(edge.pair) and all(
        tags is not None and set(edge.tags(role)) <= set(tags) for role, tags in zip(edge.pair, known, strict=True)
    )


def _sides(edge: Edge) -> Iterator[tuple[str, str]]:
    assert edge.pair is not None, edge.name
    yield edge.pair
    if not edge.among_equals:
        yield edge.pair[1], edge.pair[0]


def _both_directions(edge: Edge) -> Iterator[Problem]:
    for role, other in _sides(edge):
        bound, across = set(edge.tags(role)), set(edge.tags(other))
        for ours, theirs in ((UPWARDS, DOWNWARDS), (DOWNWARDS, UPWARDS)):
            found = [tag for tag in ours if tag in bound]
            if not found:
                continue
            if edge.among_equals or bound & set(theirs):
                reason = f"{found[0]!r} needs {' and '.join(theirs)} at another role, and here both are at one"
                yield Problem(_where(edge, role), list(edge.tags(role)), reason)
                break
            if found != list(ours):
                missing = next(tag for tag in ours if tag not in bound)
                yield Problem(
                    _where(edge, role), list(edge.tags(role)), f"{found[0]!r} without {missing!r} waits for ever", ", ".join(ours)
                )
            if not across & set(theirs):
                reason = f"{found[0]!r} needs {' and '.join(theirs)} at the other side ({other}), else both wait for ever"
                yield Problem(_where(edge, role), list(edge.tags(role)), reason, f"{other}: [{', '.join(theirs)}]")


def _coordination(edge: Edge) -> Iterator[Problem]:
    for role, other in _sides(edge):
        asks, answers = COORDINATE in edge.tags(role), [tag for tag in edge.tags(role) if tag.startswith(COORDINATE_WITH)]
        across = edge.tags(other)
        if asks and not any(tag.startswith(COORDINATE_WITH) for tag in across):
            legal = f"{other}: one of {', '.join(NEEDED_OF_PARTNER)}"
            yield Problem(_where(edge, role), COORDINATE, f"no function of the other side ({other}) answers {COORDINATE!r}", legal)
        if answers and COORDINATE not in across:
            yield Problem(
                _where(edge, role), answers[0], f"the other side ({other}) does not bind {COORDINATE!r}", f"{other}: [{COORDINATE}]"
            )


def _partners(graph: Graph, edge: Edge) -> Iterator[Problem]:
    for role, other in _sides(edge):
        does = {tag for link in graph.edges_of(other) for tag in link.tags(other)}
        for at, tag in enumerate(edge.tags(role)):
            lacking = [needed for needed in NEEDED_OF_PARTNER.get(tag, ()) if needed not in does]
            if lacking and COORDINATE in edge.tags(other):
                reason = f"{other!r} is no such partner: it binds {' and '.join(lacking)} on no channel"
                fitting = [name for name, needed in NEEDED_OF_PARTNER.items() if set(needed) <= does]
                yield Problem(_where(edge, role, at), tag, reason, legal_values(tag, fitting))


def _half_coordinators(graph: Graph, codes: Codes) -> Iterator[Problem]:
    for role in graph.roles_in_order():
        bound = {tag for edge in graph.edges_of(role.name) for tag in edge.tags(role.name)}
        essential = [tag for tag in NEEDED_OF_PARTNER if tag not in OPTIONAL]
        missing = [tag for tag in essential if tag not in bound]
        if codes[role.name].path == COORDINATOR and missing:
            reason = (
                f"class {COORDINATOR} tells each round to top, middle and trainer, and {', '.join(missing)} is bound to no channel"
            )
            yield Problem(place("schema", "roles", role.at, of=str(role)), sorted(bound), reason, ", ".join(essential))
        needed = ESSENTIAL.get(codes[role.name].path, ())
        if needed and bound and not bound & {*needed, *ALONE.get(codes[role.name].path, ())}:
            reason = f"class {codes[role.name].path} cannot work without {' and '.join(needed)}, bound to no channel of this role"
            yield Problem(place("schema", "roles", role.at, of=str(role)), sorted(bound), reason, ", ".join(needed))


def _levels_of_coordinators(graph: Graph) -> Iterator[Problem]:
    """The roles that a coordinator faces must fetch from each other in the order of its levels."""
    for role in graph.roles_in_order():
        facing = [(tag, edge) for tag in NEEDED_OF_PARTNER for edge in graph.edges_of(role.name) if tag in edge.tags(role.name)]
        for (_, above), (tag, edge) in pairwise(facing):
            upper, lower = above.other(role.name), edge.other(role.name)
            sources = [link.other(lower) for link in graph.edges_of(lower) if FETCH in link.tags(lower)]
            if sources and upper not in sources:
                reason = f"{lower!r} fetches from {', '.join(map(repr, sources))}, and the level above it is {upper!r} here"
                yield Problem(_where(edge, role.name), tag, reason)


def _no_root(graph: Graph) -> Iterator[Problem]:
    circle = circle_upwards(graph)
    if circle:
        names = " -> ".join([*circle, circle[0]])
        yield Problem("schema.channels", names, "these roles fetch from each other in a circle, so no model ever starts")
