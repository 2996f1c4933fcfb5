"""How the supervisor words what it saw."""

from collections.abc import Iterable, Sequence

from flame_run.launch.turns import LONG, NOBODY, OF
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


def gone(task: Task, what: str, tasks: Iterable[Task]) -> str:
    """Say how a worker's process ended, and through whom, as far as that is known; `what` as in `ProcessEvent`."""
    how, whose = _parted(what)
    if not whose:
        return f"{task.name} {ending(how)} {task.when}{beside(task, tasks)}"
    if whose != NOBODY:
        return f"{task.name} was lost {task.when} with {whose} of the same process, which {ending(how)}"
    mates = listed([each.name for each in tasks if each is task or _together(each, task)], 3)
    why = f"it is not known who did it, one of {mates}, as nobody had the turn"
    return f"{task.name} was lost {task.when} with its process, which {ending(how)}: {why}"


def outlived(task: Task, what: str) -> str | None:
    """Say how the process of a worker ended that had completed; None if as it should."""
    how, whose = _parted(what)
    mate = f" in the turn of {whose}" if whose not in ("", NOBODY) else ""
    return None if how in ("exit 0", "gone") else f"{task.name} had completed, then its process {ending(how)}{mate}"


def holding_up(task: Task, what: str, tasks: Iterable[Task]) -> str | None:
    """Say that a worker has the turn for long while others of its process wait; None if `what` tells of something else."""
    if not what.startswith(LONG):
        return None
    waiting = sum(_together(each, task) and not each.final for each in tasks)
    others = {0: "", 1: "; 1 other worker of its process waits for it"}
    rest = others.get(waiting, f"; {waiting} other workers of its process wait for it")
    return f"{task.name} has had the turn for {what.removeprefix(LONG)} s {task.when}{rest}"


def beside(task: Task, tasks: Iterable[Task]) -> str:
    """Name the workers that shared the process of `task`: any of them may be why it ended. Empty where there are none."""
    others = [each.name for each in tasks if _together(each, task)]
    return f" in a process shared with {listed(others, 3)}" if others else ""


def _parted(what: str) -> tuple[str, str]:
    """How a process ended, and in whose turn; the latter is empty where no others shared it."""
    if not what.startswith(("exit ", "killed ")):
        return what, ""
    how, _, whose = what.partition(OF)
    return how, whose


def _together(one: Task, other: Task) -> bool:
    return one is not other and one.pid is not None and (one.pid, one.host) == (other.pid, other.host)


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
