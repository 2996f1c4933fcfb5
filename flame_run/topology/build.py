"""From the three documents to a plan, or to everything that is wrong with them."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from flame_run.documents.check import DOCUMENTS, check_document, strip_comments
from flame_run.errors import InvalidConfig, Problem
from flame_run.topology.code import Code, attach_code
from flame_run.topology.expand import Seat, can_expand, expand_role
from flame_run.topology.graph import Graph, read_graph
from flame_run.topology.plan import Channel, Plan, Worker
from flame_run.topology.rules_data import CheckUrl, check_datasets
from flame_run.topology.rules_dialling import check_dialling, dial_only
from flame_run.topology.rules_graph import check_associations, check_graph, pairs_are_known
from flame_run.topology.rules_groups import Members, check_groups
from flame_run.topology.rules_ring import check_rings
from flame_run.topology.rules_tags import check_tags
from flame_run.topology.spec import DatasetSpec, Job, read_dataset_spec, read_job

JOB_ID_DIGITS = 24


def build_plan(
    schema: Mapping[str, Any], dataset: Mapping[str, Any], job: Mapping[str, Any], *, check_url: CheckUrl | None = None
) -> Plan:
    """Check the three documents and expand them.

    The same documents give the same plan, name by name and id by id.

    Args:
        schema: the topology, as plain maps, lists and values.
        dataset: the dataset spec.
        job: the job.
        check_url: says why a dataset URL cannot be used; None: URLs are not checked.

    Raises:
        InvalidConfig: with every problem of all three documents.
    """
    plan, problems = plan_or_problems(schema, dataset, job, check_url=check_url)
    if plan is None:
        raise InvalidConfig(problems)
    return plan


def plan_or_problems(
    schema: Any, dataset: Any, job: Any, *, check_url: CheckUrl | None = None
) -> tuple[Plan | None, list[Problem]]:
    """Check the three documents and expand them, as `build_plan` does, without raising.

    A document that could not be loaded is None: the others are judged without it, and there is no plan.
    """
    given = dict(zip(DOCUMENTS, (schema, dataset, job), strict=True))
    documents = {kind: strip_comments(content) for kind, content in given.items() if content is not None}
    problems = [problem for kind, content in documents.items() for problem in check_document(kind, content)]
    graph, spec, settings = (
        read_graph(documents.get("schema")),
        read_dataset_spec(documents.get("dataset")),
        read_job(documents.get("job")),
    )
    codes, code_problems = attach_code(graph, settings)
    wrong, association_problems = check_associations(graph)
    problems += check_graph(graph) + association_problems + check_tags(graph, codes)
    problems += check_datasets(graph, spec, settings, check_url) + code_problems
    seats, seat_problems = _seats(graph, spec, wrong)
    problems += seat_problems
    members = _members(graph, seats)
    problems += check_groups(graph, members) + check_rings(graph, members) + check_dialling(graph, settings, members)
    if problems or len(documents) < len(DOCUMENTS):
        return None, _each_once(problems)
    return _plan(graph, settings, codes, seats, spec, documents=documents), []


def _each_once(problems: list[Problem]) -> list[Problem]:
    return list({(problem.place, problem.reason): problem for problem in reversed(problems)}.values())[::-1]


def _seats(graph: Graph, spec: DatasetSpec, wrong: set[str]) -> tuple[dict[str, list[Seat]], list[Problem]]:
    """Role -> its seats, for every role that could be expanded without a problem."""
    seats: dict[str, list[Seat]] = {}
    problems: list[Problem] = []
    for role in graph.roles_in_order():
        if role.name in wrong or not can_expand(graph, spec, role):
            continue
        found, unfit = expand_role(graph, spec, role)
        problems += unfit
        if not unfit:
            seats[role.name] = found
    return seats, problems


def _members(graph: Graph, seats: Mapping[str, list[Seat]]) -> dict[str, Members]:
    """Channel -> label -> role -> worker names, for every channel whose two roles were expanded."""
    if not pairs_are_known(graph):
        return {}
    members: dict[str, Members] = {}
    for edge in graph.edges_in_order():
        assert edge.pair is not None, edge.name
        if not all(role in seats for role in edge.pair):
            continue
        groups: dict[str, dict[str, list[str]]] = {label: {} for label in edge.labels or ()}
        for role in dict.fromkeys(edge.pair):
            for index, seat in enumerate(seats[role]):
                groups[seat.groups[edge.name]].setdefault(role, []).append(f"{role}-{index}")
        members[edge.name] = {label: group for label, group in groups.items() if group}
    return members


def _plan(
    graph: Graph,
    job: Job,
    codes: Mapping[str, Code],
    seats: Mapping[str, list[Seat]],
    spec: DatasetSpec,
    *,
    documents: Mapping[str, Any],
) -> Plan:
    canonical = json.dumps([documents[kind] for kind in DOCUMENTS], sort_keys=True, separators=(",", ":"))
    job_id = job.id or _sha1(canonical)[:JOB_ID_DIGITS]
    workers = _workers(job_id, seats)
    used = (worker.dataset for worker in workers if worker.dataset is not None and not worker.dataset.at_site)
    evaluated = next(used, None) if job.evaluate_dataset is None else spec.by_name[job.evaluate_dataset][1][0]
    return Plan(
        job_id=job_id,
        job_name=job.name,
        schema_name=graph.name,
        code={role: code.path for role, code in codes.items()},
        workers=workers,
        channels=_channels(graph, _members(graph, seats)),
        evaluation=evaluated,
        dial_only=dial_only(job, workers),
    )


def _workers(job_id: str, seats: Mapping[str, list[Seat]]) -> tuple[Worker, ...]:
    return tuple(
        Worker(
            name=f"{role}-{index}",
            task_id=_sha1(f"{job_id}{role}-{index}"),
            role=role,
            index=index,
            groups=seat.groups,
            realm=seat.realm,
            dataset=seat.dataset,
        )
        for role, seated in seats.items()
        for index, seat in enumerate(seated)
    )


def _channels(graph: Graph, members: Mapping[str, Members]) -> tuple[Channel, ...]:
    return tuple(
        Channel(
            name=edge.name,
            pair=edge.pair or ("", ""),
            backend=edge.backend,
            func_tags=edge.func_tags or {},
            groups={label: {role: tuple(names) for role, names in group.items()} for label, group in members[edge.name].items()},
        )
        for edge in graph.edges_in_order()
    )


def _sha1(text: str) -> str:
    return hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()
