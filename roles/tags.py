"""Function tags: how a schema binds a role's methods to channels. Free of torch, so that `flame-run plan` can check them.

A method becomes a function of its role by `@function("tag")`; `marked_tags(cls)` lists them, which is what
`Role.get_func_tags()` answers. The tags of the built-in classes stand here as data, and a test of the roles
compares the two.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final, TypeVar

FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])

FETCH: Final = "fetch"
UPLOAD: Final = "upload"
DISTRIBUTE: Final = "distribute"
AGGREGATE: Final = "aggregate"
COORDINATE: Final = "coordinate"
COORDINATE_WITH_TOP: Final = "coordinateWithTopAgg"
COORDINATE_WITH_MIDDLE: Final = "coordinateWithMidAgg"
COORDINATE_WITH_LEAF: Final = "coordinateWithLeafAgg"
COORDINATE_WITH_TRAINER: Final = "coordinateWithTrainer"
RING_ALLREDUCE: Final = "ring_allreduce"
COORDINATE_WITH: Final = "coordinateWith"
"""What the name of every function starts with that answers a `coordinate` at the other side."""

MANY: Final = 1000
"""A number of channels that no role has: for functions that serve any number."""

BUILTIN_TAGS: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "roles.Trainer": (FETCH, UPLOAD, COORDINATE, RING_ALLREDUCE),
        "roles.Aggregator": (DISTRIBUTE, AGGREGATE, FETCH, UPLOAD, COORDINATE),
        "roles.Coordinator": (COORDINATE_WITH_TOP, COORDINATE_WITH_MIDDLE, COORDINATE_WITH_LEAF, COORDINATE_WITH_TRAINER),
        "roles.NullTrainer": (FETCH, UPLOAD, COORDINATE, RING_ALLREDUCE),
    }
)
"""Import path of a built-in class -> the functions it exposes."""

BUILTIN_CHANNELS: Final[Mapping[str, Mapping[str, int]]] = MappingProxyType(
    {"roles.Aggregator": {DISTRIBUTE: MANY, AGGREGATE: MANY}}
)
"""Import path of a built-in class -> to how many channels a function may be bound, where that is not one."""


def function(tag: str, *, after: str | None = None, channels: int = 1) -> Callable[[FunctionT], FunctionT]:
    """Mark a method as the function `tag` of its role.

    Args:
        tag: the name that `funcTags` of a schema uses.
        after: the tag that this function follows in a round, None where the role decides.
        channels: how many channels of one role the function may be bound to.

    Raises:
        ValueError: an empty tag or fewer than one channel.
    """
    if not tag or channels < 1:
        raise ValueError(f"a function needs a tag and at least one channel, not {tag!r} and {channels}")

    def mark(method: FunctionT) -> FunctionT:
        for name, value in (("func_tag", tag), ("func_after", after), ("func_channels", channels)):
            setattr(method, name, value)
        return method

    return mark


def marked_functions(cls: type) -> dict[str, Callable[..., Any]]:
    """Map each tag to the method of `cls` that carries it: those of base classes first, each in order of definition.

    An overriding method need not repeat the mark of the one that it overrides.
    """
    found: dict[str, Callable[..., Any]] = {}
    for base in reversed(cls.__mro__):
        for name, value in vars(base).items():
            tag = getattr(value, "func_tag", None)
            if isinstance(tag, str):
                found[tag] = getattr(cls, name)
    return found


def marked_tags(cls: type) -> list[str]:
    """List the tags of the marked methods of `cls`, those of its base classes first."""
    return list(marked_functions(cls))


def channels_per_tag(cls: type) -> dict[str, int]:
    """Tell to how many channels of one role each tag of `cls` may be bound."""
    limits: dict[str, int] = {}
    for base in reversed(cls.__mro__):
        for value in vars(base).values():
            tag = getattr(value, "func_tag", None)
            if isinstance(tag, str):
                limits[tag] = int(getattr(value, "func_channels", 1))
    return limits


def followers(cls: type, tag: str) -> list[str]:
    """List the tags of `cls` that are marked to run after `tag`, in order of definition."""
    after: dict[str, str | None] = {}
    for base in reversed(cls.__mro__):
        for value in vars(base).values():
            own = getattr(value, "func_tag", None)
            if isinstance(own, str):
                after[own] = getattr(value, "func_after", None)
    return [own for own, before in after.items() if before == tag]
