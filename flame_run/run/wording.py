"""How the supervisor words what it saw."""

from collections.abc import Iterable, Sequence

from flame_run.run.task import Task


def listed(names: Sequence[str], most: int = 10) -> str:
    """List `names`, the first `most` of them in words."""
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest


def times(count: int) -> str:
    """Say how often."""
    return {1: "once", 2: "twice"}.get(count, f"{count} times")


def ending(what: str) -> str:
    """Say how a process ended; `what` as in `ProcessEvent`."""
    if what == "exit 0":
        return "ended without finishing (exit status 0)"
    if what == "killed by SIGKILL":
        return "was killed by SIGKILL (out of memory?)"
    if what == "gone":
        return "has ended"
    if what.startswith("exit "):
        return f"ended with exit status {what.removeprefix('exit ')}"
    return f"was {what}" if what.startswith("killed") else what


def beside(task: Task, tasks: Iterable[Task]) -> str:
    """Name the workers that shared the process of `task`: any of them may be why it ended. Empty where there are none."""
    others = [each.name for each in tasks if each is not task and each.pid == task.pid and each.host == task.host]
    return f" in a process shared with {listed(others, 3)}" if task.pid is not None and others else ""


def missing(tasks: Sequence[Task]) -> str:
    """Say which workers are not ready, by how far they came."""
    seen = any(task.process for task in tasks)
    groups: dict[str, list[str]] = {}
    for task in tasks:
        if task.ready or task.final:
            continue
        if task.session:
            why = "registered but not ready"
        elif task.type == "user":
            why = "not joined by its site"
        elif task.process:
            why = "started but not registered"
        else:
            why = "never started" if seen else "not registered"
        groups.setdefault(why, []).append(task.name)
    if not groups:
        preparing = [task.name for task in tasks if task.state == "starting"]
        if preparing:
            return f"still preparing, building model and data: {listed(preparing)}"
        return "all workers are ready, but none has entered round 1"
    return "; ".join(f"{why}: {listed(names)}" for why, names in groups.items())
