"""A plan without documents, and task records made by hand."""

from collections.abc import Callable
from typing import Any

import pytest

from flame_run.run.records import TaskRecord
from flame_run.topology.plan import Channel, Plan, Worker


@pytest.fixture
def plan() -> Plan:
    """An aggregator and two trainers."""
    names = (("aggregator", 0), ("trainer", 0), ("trainer", 1))
    workers = tuple(
        Worker(
            name=f"{role}-{index}", task_id=f"{position:040x}", role=role, index=index, groups={"param": "default"}, realm="default"
        )
        for position, (role, index) in enumerate(names)
    )
    tags = {"trainer": ("fetch", "upload"), "aggregator": ("distribute", "aggregate")}
    members = {"default": {"aggregator": ("aggregator-0",), "trainer": ("trainer-0", "trainer-1")}}
    channel = Channel(name="param", backend="auto", pair=("trainer", "aggregator"), func_tags=tags, groups=members)
    return Plan(job_id="a" * 24, job_name="job", schema_name="schema", code={}, workers=workers, channels=(channel,))


@pytest.fixture
def record() -> Callable[..., TaskRecord]:
    """Makes task records; what is not given is some value."""

    def make(**values: Any) -> TaskRecord:
        some: dict[str, Any] = {
            "time": 1000.0, "job_id": "a" * 24, "task_id": "b" * 40, "worker": "trainer-0", "role": "trainer", "type": "system",
            "state": "running", "round": 1, "pid": 7, "host": "here", "error": None,
        }  # fmt: skip
        return TaskRecord(**{**some, **values})

    return make
