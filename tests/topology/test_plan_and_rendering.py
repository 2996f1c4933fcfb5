"""The plan's own questions, its JSON object, and its drawings."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from flame_run.topology.build import build_plan
from flame_run.topology.plan import Plan, plan_to_json
from flame_run.topology.render import render_mermaid, render_text

SHIPPED = [
    ("two_tier", "default"), ("hierarchical", "default"), ("hierarchical_groups", "eu_na"), ("four_tier", "regions"),
    ("coordinated", "three"), ("parallel", "us_eu_asia"), ("realms", "realms"), ("realms_three_tier", "realms"),
]  # fmt: skip


@pytest.fixture
def plan_of(documents_of: Callable[..., Any]) -> Callable[[str, str], Plan]:
    def plan(schema: str, dataset: str) -> Plan:
        documents = documents_of(schema, dataset)
        return build_plan(documents["schema"], documents["dataset"], documents["job"])

    return plan


PlanOf = Callable[[str, str], Plan]


def test_ends_are_the_peers_of_the_group_in_the_order_of_the_plan(plan_of: PlanOf):
    plan = plan_of("hierarchical", "default")
    assert plan.ends("middle-aggregator-1", "param-channel") == ("trainer-2", "trainer-3")
    assert plan.ends("middle-aggregator-1", "global-channel") == ("top-aggregator-0",)
    assert plan.ends("trainer-0", "param-channel") == ("middle-aggregator-0",)


def test_who_distributes_or_coordinates_listens_and_the_others_dial(plan_of: PlanOf):
    plan = plan_of("coordinated", "three")
    assert {channel.name: plan.hosts(channel.name) for channel in plan.channels} == {
        "top-agg-coord-channel": "coordinator",
        "middle-agg-coord-channel": "coordinator",
        "trainer-coord-channel": "coordinator",
        "global-channel": "top-aggregator",
        "param-channel": "middle-aggregator",
    }
    assert plan.dials("trainer-0", "param-channel") == ("middle-aggregator-0", "middle-aggregator-1")
    assert plan.dials("middle-aggregator-0", "param-channel") == ()


@pytest.mark.parametrize(("schema", "dataset"), SHIPPED)
def test_each_pair_of_ends_agrees_on_who_dials(plan_of: PlanOf, schema: str, dataset: str):
    plan = plan_of(schema, dataset)
    for worker in plan.workers:
        for channel in worker.groups:
            for end in plan.ends(worker.name, channel):
                assert worker.name in plan.ends(end, channel)
                assert (end in plan.dials(worker.name, channel)) != (worker.name in plan.dials(end, channel))


def test_an_unknown_worker_or_channel_is_a_key_error(plan_of: PlanOf):
    plan = plan_of("two_tier", "default")
    for question in (lambda: plan.worker("x"), lambda: plan.channel("x"), lambda: plan.ends("trainer-0", "x")):
        with pytest.raises(KeyError):
            question()


@pytest.mark.parametrize(("schema", "dataset"), SHIPPED)
def test_the_json_object_keeps_its_contract(plan_of: PlanOf, schema: str, dataset: str):
    plan = plan_of(schema, dataset)
    content = json.loads(json.dumps(plan_to_json(plan)))
    assert set(content) == {"job", "workers", "channels"}
    assert re.fullmatch(r"[0-9a-f]{24}", content["job"]["id"])
    assert content["job"]["name"] == "job"
    for worker in content["workers"]:
        assert set(worker) == {"name", "task_id", "role", "groups", "dataset", "realm"}
        assert re.fullmatch(r"[0-9a-f]{40}", worker["task_id"])
        for channel, label in worker["groups"].items():
            (edge,) = [edge for edge in content["channels"] if edge["name"] == channel]
            assert worker["name"] in edge["groups"][label][worker["role"]]
    for channel in content["channels"]:
        assert set(channel) == {"name", "groups"}
    assert len({worker["task_id"] for worker in content["workers"]}) == len(content["workers"])


@pytest.mark.parametrize(("schema", "dataset"), SHIPPED)
def test_the_text_names_every_worker_role_and_channel_in_plain_ascii(plan_of: PlanOf, schema: str, dataset: str):
    plan = plan_of(schema, dataset)
    text = render_text(plan)
    assert text.isascii()
    assert "\x1b" not in text
    rows = [line.split()[0] for line in text.splitlines() if line]
    for worker in plan.workers:
        assert worker.name in rows
    assert {channel.name for channel in plan.channels} | set(plan.code) <= set(rows)


def test_the_text_of_a_terminal_has_bold_titles_and_the_same_rows(plan_of: PlanOf):
    plan = plan_of("coordinated", "three")
    bold = render_text(plan, bold=True)
    assert "\x1b[1mWorkers\x1b[0m" in bold
    assert re.sub(r"\x1b\[[0-9;]*m", "", bold) == render_text(plan)


def test_ten_thousand_trainers_are_planned_and_drawn_one_line_each(documents_of: Callable[..., Any], edited: Callable[..., Any]):
    partition = {"strategy": "iid", "count": 10_000}
    documents = edited(documents_of("two_tier", "default"), {"dataset.datasets[0].partition": partition})
    plan = build_plan(documents["schema"], documents["dataset"], documents["job"])
    assert len(plan.ends("aggregator-0", "param-channel")) == 10_003
    assert sum(line.startswith("trainer-") for line in render_text(plan).splitlines()) == 10_003


def test_names_with_brackets_are_printed_as_they_are(documents_of: Callable[..., Any], edited: Callable[..., Any]):
    documents = edited(documents_of("two_tier", "default"), {"job.name": "[bold]x[/bold]", "schema.name": 'a "b" <c>'})
    plan = build_plan(documents["schema"], documents["dataset"], documents["job"])
    assert render_text(plan).startswith("job [bold]x[/bold] (")


@pytest.mark.parametrize(("schema", "dataset"), SHIPPED)
def test_the_flowchart_declares_every_node_once_and_closes_every_part(plan_of: PlanOf, schema: str, dataset: str):
    plan = plan_of(schema, dataset)
    lines = [line.strip() for line in render_mermaid(plan).splitlines()]
    assert lines[0] == "flowchart TB"
    assert sum(line.startswith("subgraph") for line in lines) == lines.count("end")
    declared = [match[1] for line in lines if (match := re.match(r"(?:subgraph )?(\w+)(?:\[|\(\[)\"", line))]
    assert len(declared) == len(set(declared))
    used = {name for line in lines if " --- " in line for name in line.split(" --- ")}
    assert used <= set(declared)
    assert sum(" --- " in line for line in lines) == sum(len(worker.groups) for worker in plan.workers)


def test_quotes_do_not_end_a_label_of_the_flowchart(documents_of: Callable[..., Any], edited: Callable[..., Any]):
    label = 'default/"eu"<x>'
    edits = {
        "schema.channels[0].groupBy.value": [label],
        "dataset.datasets": [{"name": 'a "b"', "url": "builtin://mnist-mini", "realm": label}],
        "dataset.dataSpec[0].datasets": ['a "b"'],
    }
    documents = edited(documents_of("two_tier", "default"), edits)
    drawn = render_mermaid(build_plan(documents["schema"], documents["dataset"], documents["job"]))
    assert "default/#quot;eu#quot;#lt;x#gt;" in drawn
    assert all(line.count('"') in (0, 2) for line in drawn.splitlines())


def test_planning_imports_nothing_heavy():
    code = (
        "import sys; import flame_run.topology.build, flame_run.topology.render, flame_run.documents; "
        "print(sorted({'torch', 'lightning', 'mlflow', 'grpc', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"
