"""The documents as frozen values, read leniently: what cannot be read is left out and marked, so that the rules judge the rest.

The JSON Schema check has already reported every such part; a rule that would need it stays silent.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeGuard

from flame_run.topology.paths import is_path

DEFAULT_LABEL = "default"
"""The only group of a channel without `groupBy`."""
PAIR = 2
"""Ends of a channel."""
MOST = 1_000_000
"""Workers or datasets that one entry may stand for, as the JSON Schema files say."""


@dataclass(frozen=True, kw_only=True)
class Role:
    """A vertex as written."""

    at: int
    """Its position in `schema.roles`."""
    name: str
    is_data_consumer: bool | None
    """None if it could not be read."""
    replica: int | None
    """None if it could not be read; 1 where it is not set."""
    sets_replica: bool
    associations: tuple[Mapping[str, str], ...] | None
    """Maps channel -> label; None where the role has none and realms decide."""
    sound: bool
    """Whether all that the expansion needs could be read."""

    def __str__(self) -> str:
        return f"role {self.name}"


@dataclass(frozen=True, kw_only=True)
class Edge:
    """A channel as written."""

    at: int
    """Its position in `schema.channels`."""
    name: str
    pair: tuple[str, str] | None
    """None if it could not be read."""
    labels: tuple[str, ...] | None
    """The labels of `groupBy`, or `default` alone; None if they could not be read."""
    grouped: bool
    func_tags: Mapping[str, tuple[str, ...]] | None
    """Role -> functions; None if a part of it could not be read."""
    backend: str

    def __str__(self) -> str:
        return f"channel {self.name}"

    @property
    def among_equals(self) -> bool:
        """Whether both ends are of the same role."""
        return self.pair is not None and self.pair[0] == self.pair[1]

    def tags(self, role: str) -> tuple[str, ...]:
        """List the functions that `role` performs here; none where they could not be read."""
        return (self.func_tags or {}).get(role, ())

    def other(self, role: str) -> str:
        """Name the role at the other side; the same one on a channel among equals."""
        assert self.pair is not None, self.name
        return self.pair[1] if self.pair[0] == role else self.pair[0]


@dataclass(frozen=True)
class Graph:
    """A schema. Where a name is given twice, the first one counts."""

    name: str
    roles: tuple[Role, ...]
    edges: tuple[Edge, ...]
    complete: bool
    """Whether every role and every channel has a readable name."""

    @cached_property
    def role_by_name(self) -> Mapping[str, Role]:
        """Map each role name to its first bearer."""
        return {role.name: role for role in reversed(self.roles)}

    @cached_property
    def edge_by_name(self) -> Mapping[str, Edge]:
        """Map each channel name to its first bearer."""
        return {edge.name: edge for edge in reversed(self.edges)}

    def edges_of(self, role: str) -> tuple[Edge, ...]:
        """List the channels that `role` is on, in the order of the schema."""
        return tuple(edge for edge in self.edges if edge.pair is not None and role in edge.pair)

    def edges_in_order(self) -> Iterator[Edge]:
        """Iterate over the channels in the order of the schema, each name once."""
        return (edge for edge in self.edges if self.edge_by_name[edge.name] is edge)

    def edges_of_known_roles(self) -> Iterator[Edge]:
        """Iterate over the channels whose two roles exist."""
        return (edge for edge in self.edges if edge.pair is not None and set(edge.pair) <= set(self.role_by_name))

    def roles_in_order(self) -> Iterator[Role]:
        """Iterate over the roles in the order of the schema, each name once."""
        return (role for role in self.roles if self.role_by_name[role.name] is role)

    def on_sound_edges(self, role: str) -> bool:
        """Tell whether every channel is readable enough to know those of `role` and their labels."""
        unique = len(self.edge_by_name) == len(self.edges)
        return (
            self.complete
            and unique
            and all(edge.pair is not None and (role not in edge.pair or edge.labels is not None) for edge in self.edges)
        )


def read_graph(schema: Any) -> Graph:
    """Read the document `schema`, whatever it holds."""
    content = schema if isinstance(schema, Mapping) else {}
    roles, edges = _entries(content.get("roles")), _entries(content.get("channels"))
    readable_roles = tuple(_read_role(at, entry) for at, entry in roles if _has_name(entry))
    readable_edges = tuple(_read_edge(at, entry) for at, entry in edges if _has_name(entry))
    complete = bool(roles and edges) and len(readable_roles) == len(roles) and len(readable_edges) == len(edges)
    name = content.get("name")
    return Graph(name if isinstance(name, str) else "", readable_roles, readable_edges, complete)


def _entries(value: Any) -> list[tuple[int, Any]]:
    return list(enumerate(value)) if isinstance(value, list) else []


def _has_name(entry: Any) -> bool:
    return isinstance(entry, Mapping) and isinstance(entry.get("name"), str)


def _read_role(at: int, entry: Mapping[str, Any]) -> Role:
    consumer = entry.get("isDataConsumer", False)
    replica = entry.get("replica", 1)
    legal_replica = (
        isinstance(replica, (int, float)) and not isinstance(replica, bool) and 1 <= replica <= MOST and replica == int(replica)
    )
    associations, readable = None, True
    if "groupAssociation" in entry:
        written = entry["groupAssociation"]
        readable = isinstance(written, list) and bool(written) and all(_is_association(group) for group in written)
        associations = tuple(dict(group) for group in written) if readable else None
    return Role(
        at=at,
        name=entry["name"],
        is_data_consumer=consumer if isinstance(consumer, bool) else None,
        replica=int(replica) if legal_replica else None,
        sets_replica="replica" in entry,
        associations=associations,
        sound=readable and legal_replica and isinstance(consumer, bool),
    )


def _read_edge(at: int, entry: Mapping[str, Any]) -> Edge:
    pair, func_tags = entry.get("pair"), entry.get("funcTags")
    backend = entry.get("backend", "auto")
    return Edge(
        at=at,
        name=entry["name"],
        pair=(pair[0], pair[1]) if is_text_list(pair) and len(pair) == PAIR else None,
        labels=_read_labels(entry["groupBy"]) if "groupBy" in entry else (DEFAULT_LABEL,),
        grouped="groupBy" in entry,
        func_tags=_read_tags(func_tags),
        backend={"p2p": "grpc"}.get(backend, backend) if isinstance(backend, str) else "auto",
    )


def _read_tags(func_tags: Any) -> Mapping[str, tuple[str, ...]] | None:
    if not isinstance(func_tags, Mapping) or not all(is_text_list(tags) for tags in func_tags.values()):
        return None
    return {str(role): tuple(tags) for role, tags in func_tags.items()}


def _read_labels(group_by: Any) -> tuple[str, ...] | None:
    value = group_by.get("value") if isinstance(group_by, Mapping) else None
    return tuple(dict.fromkeys(value)) if is_text_list(value) and all(map(is_path, value)) else None


def _is_association(group: Any) -> bool:
    return is_text_map(group) and bool(group) and all(is_path(label) for label in group.values())


def is_text_list(value: Any) -> TypeGuard[list[str]]:
    """Tell whether `value` is a non-empty list of texts."""
    return isinstance(value, list) and bool(value) and all(isinstance(entry, str) for entry in value)


def is_text_map(value: Any) -> TypeGuard[Mapping[str, str]]:
    """Tell whether `value` is a map from texts to texts."""
    return isinstance(value, Mapping) and all(isinstance(part, str) for pair in value.items() for part in pair)
