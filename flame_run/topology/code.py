"""The class attached to each role, and the functions that it exposes."""

import importlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from flame_run.documents.place import place
from flame_run.documents.spelling import legal_values, nearest
from flame_run.errors import Problem
from flame_run.topology.graph import Graph, Role
from flame_run.topology.spec import Job
from roles.tags import BUILTIN_CHANNELS, BUILTIN_TAGS, COORDINATE_WITH, channels_per_tag

TRAINER, AGGREGATOR, COORDINATOR, *_ = BUILTIN_TAGS
IMPORT_PATH = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+")
"""As in the JSON Schema of the job, which reports any other."""


@dataclass(frozen=True)
class Code:
    """What is attached to a role."""

    path: str
    """Import path of the class."""
    tags: tuple[str, ...] | None
    """The functions it exposes; None if that cannot be told."""
    channels: Mapping[str, int] = field(default_factory=dict)
    """Function -> how many channels it may be bound to; one where it is not named."""


class CodeError(Exception):
    """A class that cannot be attached; carries the reason and what is legal."""

    def __init__(self, reason: str, legal: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.legal = legal


def attach_code(graph: Graph, job: Job) -> tuple[dict[str, Code], list[Problem]]:
    """Attach a class to every role: the one that `job.code` names, else the built-in one that fits."""
    codes: dict[str, Code] = {}
    problems: list[Problem] = []
    for role in graph.roles_in_order():
        where = place("job", "code", role.name, of=str(role))
        path = job.code.get(role.name, "") if role.name in job.code else default_code(graph, role)
        if path is not None and not IMPORT_PATH.fullmatch(path):
            codes[role.name] = Code(path, None)
            continue
        if path is None:
            problems.append(
                Problem(where, None, "the role has no code", f"an import path; the built-in one is {default_code(graph, role)}")
            )
            continue
        try:
            codes[role.name] = _code(path, known=role.name in job.code or _default_is_known(graph, role))
        except CodeError as error:
            problems.append(Problem(where, path, error.reason, error.legal))
            codes[role.name] = Code(path, None)
    return codes, problems + _unknown_roles(graph, job)


def default_code(graph: Graph, role: Role) -> str:
    """Choose the built-in class of a role to which the job attaches nothing."""
    if role.is_data_consumer:
        return TRAINER
    tags = [tag for edge in graph.edges_of(role.name) for tag in edge.tags(role.name)]
    return COORDINATOR if any(tag.startswith(COORDINATE_WITH) for tag in tags) else AGGREGATOR


def _default_is_known(graph: Graph, role: Role) -> bool:
    readable = all(edge.func_tags is not None for edge in graph.edges_of(role.name))
    return role.is_data_consumer is not None and (role.is_data_consumer or readable)


def _unknown_roles(graph: Graph, job: Job) -> list[Problem]:
    if not graph.complete:
        return []
    known = list(graph.role_by_name)
    written = [("code", role) for role in job.code] + [("roles", role) for role in job.roles]
    return [
        Problem(place("job", key, role), role, "the schema has no such role", legal_values(role, known))
        for key, role in written
        if role not in graph.role_by_name
    ]


def _code(path: str, *, known: bool) -> Code:
    if path in BUILTIN_TAGS:
        return Code(path, BUILTIN_TAGS[path] if known else None, BUILTIN_CHANNELS.get(path, {}))
    cls = _import_class(path)
    return Code(path, _tags_of(cls), channels_per_tag(cls))


def _import_class(path: str) -> type:
    module_path, _, name = path.rpartition(".")
    if module_path == "roles" and nearest(path, BUILTIN_TAGS):
        # told from the list, without importing torch
        raise CodeError("there is no such built-in class", legal_values(path, BUILTIN_TAGS))
    module = _import_module(module_path)
    try:
        found = getattr(module, name)
    except AttributeError as error:
        names = [known for known, value in vars(module).items() if isinstance(value, type)]
        raise CodeError(f"module {module_path!r} has no class {name!r}", legal_values(name, names)) from error
    except Exception as error:  # a lazy import may raise anything; it is told, not hidden
        raise _import_error(error) from error
    if not isinstance(found, type):
        raise CodeError(f"is {type(found).__name__!r}, not a class", "a class with get_func_tags()")
    return found


def _import_module(path: str) -> object:
    from flame_run import torchvision_guard  # noqa: PLC0415  imports torch, which built-in classes do not need here

    torchvision_guard.install()
    try:
        return importlib.import_module(path)
    except Exception as error:  # a user's module may raise anything; it is told, not hidden
        raise _import_error(error) from error


def _import_error(error: Exception) -> CodeError:
    return CodeError(f"cannot be imported: {type(error).__name__}: {error}", "an importable class, such as roles.Trainer")


def _tags_of(cls: type) -> tuple[str, ...]:
    legal = "a class whose class method get_func_tags() lists its functions, such as a subclass of roles.Role"
    listing = getattr(cls, "get_func_tags", None)
    if not callable(listing):
        raise CodeError("the class has no get_func_tags()", legal)
    try:
        tags = listing()
    except Exception as error:  # a user's method may raise anything; it is told, not hidden
        raise CodeError(f"get_func_tags() raised {type(error).__name__}: {error}", legal) from error
    if isinstance(tags, str) or not hasattr(tags, "__iter__"):
        raise CodeError(f"get_func_tags() returned {tags!r}, not a list of texts", legal)
    listed = tuple(tags)
    if not all(isinstance(tag, str) for tag in listed):
        raise CodeError(f"get_func_tags() returned {listed!r}, not a list of texts", legal)
    return listed
