"""Roles of the tests that die at a given point of their work, once."""

from collections.abc import Callable
from typing import Any

from roles.role import Role
from tests.roles.federation import Killed


def dying(
    base: type[Role], stage: str, *, call: int = 1, after: bool = False, who: str | None = None, times: int = 1
) -> type[Role]:
    """`base` whose method `stage` kills the worker at its `call`-th call, over all its lives.

    Args:
        base: the role.
        stage: name of the method.
        call: which call of the method, from 1, by each worker.
        after: whether it dies after the method has done its work.
        who: name of the worker that dies; None: each that has this role.
        times: in how many calls in a row.
    """
    calls: dict[str, int] = {}
    original: Callable[..., Any] = getattr(base, stage)

    def fatal(self: Role, *arguments: Any, **more: Any) -> Any:
        name = self.context.name
        calls[name] = calls.get(name, 0) + 1
        dies = who in (None, name) and call <= calls[name] < call + times
        result = None if dies and not after else original(self, *arguments, **more)
        if dies:
            raise Killed(f"killed in {stage}")
        return result

    return type(f"Fatal{base.__name__}", (base,), {stage: fatal})
