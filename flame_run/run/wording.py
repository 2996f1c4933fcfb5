"""How the supervisor words what it saw."""

from collections.abc import Sequence

from flame_run.run.task import Task


def listed(names: Sequence[str], most: int = 10) -> str:
    """List `names`, the first `most` of them in words."""
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest


def ending(what: str) -> str:
    """Say how a process ended; `what` as in `ProcessEvent`."""
    if what == "exit 0":
        return "ended without finishing (exit status 0)"
    if what == "killed by SIGKILL":
        return "was killed by SIGKILL (out of memory?)"
    if what.startswith("exit "):
        return f"ended with exit status {what.removeprefix('exit ')}"
    return f"was {what}" if what.startswith("killed") else what


def missing(tasks: Sequence[Task]) -> str:
    """Say which workers are not ready, by how far they came."""
    seen = any(task.process for task in tasks)
    groups: dict[str, list[str]] = {}
    for task in tasks:
        if task.ready:
            continue
        if task.session:
            why = "registered but not ready"
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
