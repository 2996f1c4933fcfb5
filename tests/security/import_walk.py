"""Reads off the source of a tree what could run code that came as bytes: which modules, calls and loaders, and where."""

import ast
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path

PACKAGES = ("flame_run", "roles", "transports")
CODE_CARRYING = {
    "pickle", "_pickle", "cPickle", "marshal", "shelve", "dill", "cloudpickle", "joblib", "jsonpickle", "klepto",
    "multiprocessing", "xmlrpc", "code", "codeop", "runpy", "imp",
}  # fmt: skip
"""Modules whose bytes run code when they are read, or which read such bytes from a connection (`multiprocessing`)."""
CODE_LOADING = {
    "pandas.read_pickle", "numpy.lib.format", "numpy.lib.npyio", "torch.hub", "torch.jit", "torch.package", "torch.serialization",
    "logging.config", "yaml.unsafe_load", "yaml.full_load", "yaml.UnsafeLoader", "yaml.FullLoader", "yaml.Loader",
}  # fmt: skip
"""What of other packages does; imported by name, or as an attribute of a module that was."""
LOADERS = ("torch", "numpy", "yaml", "joblib", "pandas")
"""Packages whose `load` is judged by its arguments."""
NAMES_OF_ERRORS = {"UnpicklingError", "PicklingError"}
"""All that others use of `pickle`: what `torch.load` raises."""
RUNS_TEXT = {"eval", "exec", "compile", "__import__"}


class Module:
    """One file, read."""

    def __init__(self, path: Path, root: Path) -> None:
        self.path = path
        self.name = str(path.relative_to(root))
        self._package = path.relative_to(root).with_suffix("").parts[:-1]
        self.tree = ast.parse(path.read_text(encoding="utf-8"))

    @cached_property
    def names(self) -> Mapping[str, str]:
        """Name in this file -> the full name of what was imported under it, wherever in the file."""
        found: dict[str, str] = {}
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    full = alias.name if alias.asname else alias.name.partition(".")[0]
                    found[alias.asname or full] = full
            elif isinstance(node, ast.ImportFrom):
                found |= {alias.asname or alias.name: f"{self._base(node)}.{alias.name}" for alias in node.names}
        return found

    @cached_property
    def imports(self) -> frozenset[str]:
        """Full names of all that is imported, also by `import_module` with a text."""
        found = set()
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                found |= {self._base(node), *(f"{self._base(node)}.{alias.name}" for alias in node.names)}
            elif isinstance(node, ast.Call) and self.full_name(node.func) == "importlib.import_module":
                found |= {each.value for each in node.args[:1] if isinstance(each, ast.Constant) and isinstance(each.value, str)}
        return frozenset(found)

    def _base(self, node: ast.ImportFrom) -> str:
        above = self._package[: len(self._package) - node.level + 1] if node.level else ()
        return ".".join([*above, *([node.module] if node.module else [])])

    def full_name(self, node: ast.expr) -> str:
        """What a dotted name stands for, by the imports of this file; empty for anything else."""
        parts: list[str] = []
        while isinstance(node, ast.Attribute):
            parts.append(node.attr)
            node = node.value
        if not isinstance(node, ast.Name):
            return ""
        return ".".join([self.names.get(node.id, node.id), *reversed(parts)])

    @cached_property
    def used(self) -> frozenset[str]:
        """Full names of all that the file mentions."""
        nodes = (node for node in ast.walk(self.tree) if isinstance(node, ast.Name | ast.Attribute))
        return frozenset(self.full_name(node) for node in nodes)

    def calls(self) -> Iterator[tuple[str, ast.Call]]:
        """Every call of something with a name."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Call) and (name := self.full_name(node.func)):
                yield name, node


class Walk:
    """The packages of this project below `root`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        paths = sorted(path for package in PACKAGES for path in (root / package).rglob("*.py"))
        self.modules = {path: Module(path, root) for path in paths}

    def below(self, *places: str) -> list[Module]:
        """Files, and those of folders, `flame_run/control` for one."""
        folders = tuple(f"{place}/" for place in places)
        return [each for each in self.modules.values() if each.name in places or each.name.startswith(folders)]

    def _sources(self, name: str) -> Iterator[Module]:
        """The files of a module, and of the packages around it."""
        parts = name.split(".")
        for end in range(1, len(parts) + 1 if parts[0] in PACKAGES else 0):
            path = self.root.joinpath(*parts[:end])
            yield from (self.modules[each] for each in (path.with_suffix(".py"), path / "__init__.py") if each in self.modules)

    def reachable(self, start: list[Module]) -> list[Module]:
        """Files that importing those of `start` may lead to, these included."""
        found, waiting = set(start), list(start)
        while waiting:
            for name in waiting.pop().imports:
                for module in self._sources(name):
                    if module not in found:
                        found.add(module)
                        waiting.append(module)
        return sorted(found, key=lambda module: module.name)


def runs_bytes(module: Module) -> set[str]:
    """What a file has of modules that run code from bytes, beyond the names of errors."""
    carrying = {name for name in module.imports if name.partition(".")[0] in CODE_CARRYING}
    errors = {f"pickle.{name}" for name in NAMES_OF_ERRORS}
    if carrying == {"pickle"} and module.names.get("pickle") == "pickle":
        carrying = {name for name in module.used if name.startswith("pickle.")} - errors
    elif carrying <= {"pickle", *errors} and carrying & errors:
        carrying = set()
    return carrying | _loading(module)


def _loading(module: Module) -> set[str]:
    mentioned = module.used | module.imports
    return {name for name in mentioned if any(name == each or name.startswith(f"{each}.") for each in CODE_LOADING)}


def runs_text(module: Module) -> set[str]:
    """Calls that evaluate text."""
    return {name for name, _ in module.calls() if name.removeprefix("builtins.") in RUNS_TEXT}


def keyword(call: ast.Call, name: str) -> str | None:
    """The source of an argument."""
    return next((ast.unparse(each.value) for each in call.keywords if each.arg == name), None)


def unsafe_loads(module: Module) -> set[str]:
    """Calls of loaders that would unpickle what they read."""
    found = set()
    for name, call in module.calls():
        match name:
            case "torch.load" if keyword(call, "weights_only") != "True":
                found.add(ast.unparse(call))
            case "numpy.load" | "numpy.fromregex" if keyword(call, "allow_pickle") != "False":
                found.add(ast.unparse(call))
            case "yaml.load" | "yaml.load_all" if keyword(call, "Loader") != "DocumentLoader":
                found.add(ast.unparse(call))
    return found
