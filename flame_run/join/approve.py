"""What of a job a site runs: import paths that it has approved, and nothing that would be looked up at the site.

Two steps. `refusals` judges texts alone: while it objects to anything, nothing of the job is imported. `strays` looks at
what the approved paths lead to, since a path such as `PACKAGE.os.system` leaves its package by an import of that package.
A configuration is code: an approved package can do whatever its functions do.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from flame_run.config.part import PLACEHOLDER
from flame_run.errors import Problem

DEFAULTS = (
    "roles.*",
    "flame_run.models.*",
    "flame_run.data.*",
    "torch.nn.*",
    "torch.optim.*",
    "torch.utils.data.*",
    "torchvision.models.*",
    "torchvision.transforms.*",
    "lightning.pytorch.callbacks.*",
    "lightning.pytorch.demos.*",
    "lightning.pytorch.plugins.*",
    "lightning.pytorch.strategies.*",
)
"""What every site approves unless it says `approve.defaults=false`.

Of torch, torchvision and Lightning the packages that models are made of: others of their functions load pickles, compile
sources or fetch code (`torch.hub`, `torch.utils.cpp_extension`).
"""
_PATTERN = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*(\.\*)?")
_PATH = re.compile(r"[A-Za-z]\w*(\.[A-Za-z]\w*)+")


def bad_patterns(patterns: Sequence[str]) -> Iterator[Problem]:
    """Whatever in `approve.targets` is neither an import path nor `PACKAGE.*`."""
    for at, pattern in enumerate(patterns):
        if not _PATTERN.fullmatch(pattern) or "." not in pattern:
            legal = "PACKAGE.NAME, or PACKAGE.* for all of a package"
            yield Problem(f"approve.targets[{at}]", pattern, "not an import path", legal)


class Approved:
    """The import paths that a site approves.

    Args:
        targets: those that it lists.
        defaults: whether `DEFAULTS` hold too.
    """

    def __init__(self, targets: Sequence[str], *, defaults: bool = True) -> None:
        patterns = (*(DEFAULTS if defaults else ()), *targets)
        self._exact = {pattern for pattern in patterns if not pattern.endswith(".*")}
        self._packages = tuple(pattern[:-1] for pattern in patterns if pattern.endswith(".*"))

    def named(self, path: str) -> bool:
        """Whether the site lists this very path."""
        return path in self._exact

    def covers(self, path: str) -> bool:
        """Whether the site lists this path, or a package above it."""
        return self.named(path) or path.startswith(self._packages)

    def refusals(self, asked: Mapping[str, Any]) -> list[Problem]:
        """Everything in `asked` (`code` and `config` of a part, maps, lists and values) that the site does not run."""
        return [*self._path("code", asked["code"]), *self._walk(asked, "")]

    def strays(self, asked: Mapping[str, Any]) -> list[Problem]:
        """Approved paths in `asked` that lead to what is not approved. Imports the approved packages.

        A path that leads nowhere is none: using it raises what the job then hears of.
        """
        problems = []
        for place, path in [("code", asked["code"]), *_targets(asked, "")]:
            home = None if self.named(path) else _home(path)
            if home is not None and not self.covers(home):
                reason = f"it is {home}, which this site has not approved"
                problems.append(Problem(place, path, reason, f"approve.targets=[{path}]"))
        return problems

    def _walk(self, node: Any, place: str) -> Iterator[Problem]:
        if isinstance(node, Mapping):
            for key, value in node.items():
                inner = f"{place}.{key}" if place else str(key)
                if key == "_target_":
                    yield from self._path(inner, value)
                yield from self._walk(value, inner)
        elif isinstance(node, list | tuple):
            for index, value in enumerate(node):
                yield from self._walk(value, f"{place}[{index}]")
        elif isinstance(node, str) and "${" in PLACEHOLDER.sub("", node):
            reason = "an interpolation that would be resolved at this site"
            yield Problem(place, node, reason, "${worker:KEY} only")

    def _path(self, place: str, path: object) -> Iterator[Problem]:
        if not isinstance(path, str) or not _PATH.fullmatch(path):
            yield Problem(place, path, "not an import path that a site could approve")
        elif not self.covers(path):
            yield Problem(place, path, "this site has not approved it", f"approve.targets=[{path}]")


def _targets(node: Any, place: str) -> Iterator[tuple[str, str]]:
    if isinstance(node, Mapping):
        for key, value in node.items():
            inner = f"{place}.{key}" if place else str(key)
            if key == "_target_":
                yield inner, str(value)
            yield from _targets(value, inner)
    elif isinstance(node, list | tuple):
        for index, value in enumerate(node):
            yield from _targets(value, f"{place}[{index}]")


def _home(path: str) -> str | None:
    """Where what `path` leads to was defined, or what kind of thing it is; None if the path leads nowhere."""
    from hydra.utils import get_object  # noqa: PLC0415 - imports what it looks up

    try:
        found = get_object(path)
    except (ImportError, AttributeError, ValueError):
        return None
    module, name = getattr(found, "__module__", None), getattr(found, "__qualname__", None)
    return f"{module}.{name}" if isinstance(module, str) and isinstance(name, str) else f"an object of type {type(found).__name__}"
