"""Workers that can only dial out (`job.roles.ROLE.dialOnly`): of two ends of a channel, one has to be reachable."""

from collections.abc import Iterable, Iterator, Mapping, Sequence

from flame_run.documents.place import place
from flame_run.documents.spelling import legal_values
from flame_run.errors import Problem
from flame_run.topology.graph import Edge, Graph
from flame_run.topology.plan import Worker
from flame_run.topology.rules_groups import Members
from flame_run.topology.spec import Job


def dial_only(job: Job, workers: Iterable[Worker]) -> frozenset[str]:
    """Names of the workers that nobody can dial."""
    return frozenset(worker.name for worker in workers if _is_bound(job, worker.role, worker.name))


def check_dialling(graph: Graph, job: Job, members: Mapping[str, Members]) -> list[Problem]:
    """Everything that is wrong with what `dialOnly` says, given the groups of the channels in `members`."""
    problems = list(_unknown_names(job, members))
    for edge in graph.edges_in_order():
        for label, group in members.get(edge.name, {}).items():
            problems += _unreachable(job, edge, label, group)
    return problems


def _is_bound(job: Job, role: str, worker: str) -> bool:
    said = job.dial_only.get(role, False)
    return said if isinstance(said, bool) else worker in said


def _unknown_names(job: Job, members: Mapping[str, Members]) -> Iterator[Problem]:
    workers: dict[str, dict[str, None]] = {}
    for groups in members.values():
        for group in groups.values():
            for role, names in group.items():
                workers.setdefault(role, {}).update(dict.fromkeys(names))
    for role, said in job.dial_only.items():
        # a role that the schema does not have, or that could not be expanded, is told elsewhere
        if isinstance(said, bool) or role not in workers:
            continue
        for at, name in enumerate(said):
            if name not in workers[role]:
                where = place("job", "roles", role, "dialOnly", at, of=f"role {role}")
                yield Problem(where, name, "the role has no such worker", legal_values(name, workers[role]))


def _unreachable(job: Job, edge: Edge, label: str, group: Mapping[str, Sequence[str]]) -> Iterator[Problem]:
    """At most one problem a group: the first two ends of which neither can be dialled."""
    assert edge.pair is not None, edge.name
    one, other = ([name for name in group.get(role, ()) if _is_bound(job, role, name)] for role in edge.pair)
    pair = one[:2] if edge.among_equals else [*one[:1], *other[:1]]
    if len(pair) == len(edge.pair):
        reason = f"{pair[0]} and {pair[1]} meet on it, and both can only dial out, so neither can reach the other"
        legal = f"dialOnly for one side at most, or a graph in which these two do not meet (group {label})"
        yield Problem(place("schema", "channels", edge.at, of=str(edge)), edge.name, reason, legal)
