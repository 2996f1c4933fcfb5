"""How the supervisor words what it saw of processes that workers share."""

import pytest

from flame_run.run.task import Task
from flame_run.run.wording import beside, gone, holding_up, outlived
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


@pytest.mark.parametrize(
    ("what", "text"),
    [
        ("exit 7", "b ended with exit status 7 in round 2 in a process shared with a, d"),
        ("exit 7 of d", "b was lost in round 2 with d of the same process, which ended with exit status 7"),
        ("killed by SIGABRT of d", "b was lost in round 2 with d of the same process, which was killed by SIGABRT"),
        ("exit 1 of nobody", "b was lost in round 2 with its process, which ended with exit status 1: it is not known who did it"),
        ("failed (OSError: out of memory, or of patience)", "b failed (OSError: out of memory, or of patience) in round 2 in a"),
    ],
)
def test_the_end_of_a_shared_process_is_told_by_who_had_the_turn(what: str, text: str) -> None:
    tasks = [task("a", 7), task("b", 7), task("c", 8), task("d", 7)]
    tasks[1].round = 2
    assert gone(tasks[1], what, tasks).startswith(text)


def test_of_many_who_may_have_ended_a_process_some_are_named() -> None:
    tasks = [task(f"trainer-{index}", 7) for index in range(50)]
    assert "one of trainer-0, trainer-1, trainer-2 and 47 more, as nobody" in gone(tasks[9], "exit 1 of nobody", tasks)


@pytest.mark.parametrize(
    ("what", "text"),
    [
        ("exit 0", None),
        ("gone", None),
        ("exit 0 of b", None),
        ("exit 3", "a had completed, then its process ended with exit status 3"),
        ("exit 3 of b", "a had completed, then its process ended with exit status 3 in the turn of b"),
        ("exit 3 of nobody", "a had completed, then its process ended with exit status 3"),
    ],
)
def test_what_befalls_the_process_of_a_worker_that_has_completed(what: str, text: str | None) -> None:
    assert outlived(task("a", 7), what) == text


@pytest.mark.parametrize(
    ("others", "text"),
    [
        (0, "a has had the turn for 61 s in round 3"),
        (1, "a has had the turn for 61 s in round 3; 1 other worker of its process waits for it"),
        (4, "a has had the turn for 61 s in round 3; 4 other workers of its process wait for it"),
    ],
)
def test_a_long_turn_is_told_with_how_many_wait(others: int, text: str) -> None:
    me, over = task("a", 7), task("over", 7)
    me.round, over.state = 3, "completed"
    tasks = [me, over, task("elsewhere", 8), *(task(f"b-{index}", 7) for index in range(others))]
    assert holding_up(me, "long turn: 61", tasks) == text
    assert holding_up(me, "exit 0", tasks) is None
