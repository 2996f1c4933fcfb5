"""Whether a `_target_` leads to something, told from source files: nothing is imported, so no torch."""

import ast
import importlib.util
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from flame_run.config.hydra_errors import nearest
from flame_run.errors import Problem


def check_targets(node: Any, place: str) -> Iterator[Problem]:
    """Every `_target_` in `node` (plain maps and lists) whose module or name does not exist.

    A module without Python source, or one that makes names as it runs, is given the benefit of the doubt.
    """
    if isinstance(node, Mapping):
        target = node.get("_target_")
        if isinstance(target, str) and (problem := _check(target, f"{place}._target_")) is not None:
            yield problem
        for key, value in node.items():
            yield from check_targets(value, f"{place}.{key}")
    elif isinstance(node, list):
        for index, value in enumerate(node):
            yield from check_targets(value, f"{place}[{index}]")


def _check(target: str, place: str) -> Problem | None:
    top, *rest = target.split(".")
    if not rest:
        return Problem(place, target, "not an import path", "MODULE.CLASS")
    spec = importlib.util.find_spec(top)
    if spec is None:
        return Problem(place, target, f"there is no module {top!r}", "a module on the import path; python_path adds folders")
    source, folders = Path(spec.origin or ""), [Path(folder) for folder in spec.submodule_search_locations or ()]
    while rest and (found := _submodule(folders, rest[0])) is not None:
        source, folders = found, [found.parent] if found.name == "__init__.py" else []
        top = f"{top}.{rest.pop(0)}"
    names = _names(source) if rest and source.suffix == ".py" else None
    if names is None or rest[0] in names:
        return None
    modules = {path.stem for folder in folders for path in folder.iterdir() if path.suffix == ".py" or path.is_dir()}
    return Problem(place, target, f"{top} has no {rest[0]!r}", nearest(rest[0], sorted(names | _public(modules))))


def _submodule(folders: list[Path], name: str) -> Path | None:
    """The source of a package's submodule, as the import system would look for it."""
    for folder in folders:
        for candidate in (folder / name / "__init__.py", folder / f"{name}.py"):
            if candidate.is_file():
                return candidate
    return None


def _public(names: set[str]) -> set[str]:
    return {name for name in names if not name.startswith("_")}


def _names(source: Path) -> set[str] | None:
    """Public names that a module binds at its top level; None where only running it could tell."""
    found: set[str] = set()
    for statement in ast.parse(source.read_text(encoding="utf-8")).body:
        if isinstance(statement, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            found.add(statement.name)
        elif isinstance(statement, ast.Import | ast.ImportFrom):
            found |= {alias.asname or alias.name for alias in statement.names}
        elif isinstance(statement, ast.Assign | ast.AnnAssign):
            targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
            found |= {target.id for target in targets if isinstance(target, ast.Name)}
        elif not isinstance(statement, ast.Expr):
            return None  # an `if`, a `try`, a loop: names may come from there
    if "*" in found or "__getattr__" in found:
        return None
    return _public(found)
