"""How the supervisor words what it saw of processes that workers share."""

import pytest

from flame_run.run.task import Task
from flame_run.run.wording import beside
from flame_run.topology.plan import Worker


def task(name: str, pid: int | None, host: str | None = "here") -> Task:
    worker = Worker(name=name, task_id="0", role="trainer", index=0, groups={}, dataset=None, realm="default")
    return Task(worker, "job", "system", pid=pid, host=host)


@pytest.mark.parametrize(
    ("pid", "text"),
    [(7, " in a process shared with b, d"), (8, ""), (9, " in a process shared with f"), (None, "")],
)
def test_the_others_of_a_process_are_named(pid: int | None, text: str) -> None:
    tasks = [task("b", 7), task("c", 8, "there"), task("d", 7), task("e", None), task("f", 9)]
    me = task("a", pid)
    assert beside(me, [me, *tasks]) == text


def test_many_others_are_named_in_part() -> None:
    tasks = [task(f"trainer-{index}", 7) for index in range(50)]
    assert beside(tasks[0], tasks).endswith("trainer-1, trainer-2, trainer-3 and 46 more")
