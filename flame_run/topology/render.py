"""A plan for people: aligned columns of text, and a mermaid flowchart."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby

from flame_run.topology.plan import Channel, Plan

NAMES = 3
"""Names of workers that a cell lists before it only counts them."""


def render_text(plan: Plan, *, bold: bool = False) -> str:
    """Draw the plan as aligned columns: roles, channels with their groups, workers.

    Args:
        plan: the expanded job.
        bold: whether to use a terminal's escape sequences for titles.
    """
    title = f"job {plan.job_name} ({plan.job_id}), schema {plan.schema_name}: {len(plan.workers)} workers"
    tables = {"Roles": _roles(plan), "Channels": _channels(plan), "Workers": _workers(plan)}
    lines = [title]
    for name, rows in tables.items():
        lines += ["", f"\x1b[1m{name}\x1b[0m" if bold else name, *_aligned(rows)]
    return "\n".join(lines) + "\n"


def _aligned(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "   ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def _roles(plan: Plan) -> list[list[str]]:
    workers = Counter(worker.role for worker in plan.workers)
    datasets = Counter(worker.role for worker in plan.workers if worker.dataset is not None)
    rows = [[role, path, str(workers[role]), str(datasets[role] or "-")] for role, path in plan.code.items()]
    return [["role", "class", "workers", "datasets"], *rows]


def _channels(plan: Plan) -> list[list[str]]:
    rows = [["channel", "group", "one end", "functions", "other end", "functions", "backend"]]
    for channel in plan.channels:
        for label, group in channel.groups.items():
            ends = [cell for role in channel.pair for cell in (_some(group.get(role, ())), ", ".join(channel.func_tags[role]))]
            rows.append([channel.name, label, *ends, channel.backend])
    return rows


def _some(names: tuple[str, ...]) -> str:
    return ", ".join(names) if len(names) <= NAMES else f"{names[0]} .. {names[-1]} ({len(names)})"


def _workers(plan: Plan) -> list[list[str]]:
    rows = [["worker", "groups", "dataset", "realm", "task"]]
    for worker in plan.workers:
        groups = ", ".join(f"{channel}: {label}" for channel, label in worker.groups.items())
        dataset = worker.dataset.name if worker.dataset is not None else "-"
        rows.append([worker.name, groups, dataset, worker.realm, worker.task_id[:12]])
    return rows


def render_mermaid(plan: Plan) -> str:
    """Draw the plan as a mermaid flowchart: the graph of roles and channels, and the workers around their groups."""
    roles = {role: f"role{position}" for position, role in enumerate(plan.code)}
    lines = ["flowchart TB", '  subgraph tag["roles and channels"]']
    count = Counter(worker.role for worker in plan.workers)
    lines += [f'    {key}["{_text(role)} x {count[role]}<br/>{_text(plan.code[role])}"]' for role, key in roles.items()]
    lines += [f'    {roles[channel.pair[0]]} ---|"{_text(channel.name)}"| {roles[channel.pair[1]]}' for channel in plan.channels]
    lines += ["  end", '  subgraph workers["workers and groups"]']
    nodes = {worker.name: f"worker{position}" for position, worker in enumerate(plan.workers)}
    for role, members in groupby(plan.workers, key=lambda worker: worker.role):
        lines.append(f'    subgraph {roles[role]}workers["{_text(role)}"]')
        for worker in members:
            about = f"<br/>{_text(worker.dataset.name)}" if worker.dataset is not None else ""
            lines.append(f'      {nodes[worker.name]}["{_text(worker.name)}{about}"]')
        lines.append("    end")
    for position, channel in enumerate(plan.channels):
        lines += _groups(f"channel{position}", channel, nodes)
    return "\n".join([*lines, "  end"]) + "\n"


def _groups(key: str, channel: Channel, nodes: Mapping[str, str]) -> list[str]:
    lines = []
    for position, (label, group) in enumerate(channel.groups.items()):
        hub = f"{key}group{position}"
        lines.append(f'    {hub}(["{_text(channel.name)}<br/>{_text(label)}"])')
        lines += [f"    {nodes[name]} --- {hub}" for names in group.values() for name in names]
    return lines


def _text(text: str) -> str:
    """Escape what ends a quoted label or reads as markup."""
    return text.replace("&", "#amp;").replace('"', "#quot;").replace("<", "#lt;").replace(">", "#gt;")
