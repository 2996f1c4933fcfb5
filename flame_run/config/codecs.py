"""The key `transport.codec`: channel name -> how weights are made smaller on it. What is legal stands in `roles.codecs.options`."""

from collections.abc import Iterator, Mapping
from typing import Any

from flame_run.documents.spelling import legal_values
from flame_run.errors import Problem
from flame_run.topology.plan import Channel, Plan
from roles.codecs.options import DIRECTIONS, ChannelCodecs, Fault, read_channel

PLACE = "transport.codec"


def codecs_of(node: Mapping[str, Any] | None) -> dict[str, ChannelCodecs]:
    """Channel name -> its codecs, from a resolved node that `check_codecs` found right."""
    return {name: read_channel(value, f"{PLACE}.{name}", []) for name, value in (node or {}).items() if value is not None}


def check_codecs(node: Any, plan: Plan | None) -> list[Problem]:
    """Everything that is wrong with a resolved node: channels that the plan has not or that carry no weights, codecs, numbers.

    Without a plan, codecs and numbers alone are looked at.
    """
    if node is None:
        return []
    if not isinstance(node, Mapping):
        return [Problem(PLACE, node, "not a map of channels", "such as {param-channel: bf16}")]
    problems: list[Problem] = []
    for name, value in node.items():
        faults: list[Fault] = []
        codecs = read_channel(value, f"{PLACE}.{name}", faults)
        problems += [_problem(fault) for fault in faults]
        if plan is not None:
            problems += _of_channel(str(name), value, codecs, plan)
    return problems


def _problem(fault: Fault) -> Problem:
    legal = fault.legal if isinstance(fault.legal, str) else legal_values(fault.word or fault.value, fault.legal)
    return Problem(fault.place, fault.value, fault.reason, legal)


def _of_channel(name: str, value: object, codecs: ChannelCodecs, plan: Plan) -> Iterator[Problem]:
    place = f"{PLACE}.{name}"
    carrying = [each.name for each in plan.channels if _directions(each)]
    channel = next((each for each in plan.channels if each.name == name), None)
    if channel is None:
        yield Problem(place, value, "there is no such channel", legal_values(name, carrying))
    elif not _directions(channel):
        yield Problem(place, value, "this channel carries no weights", legal_values(name, carrying))
    else:
        for direction in DIRECTIONS:
            if getattr(codecs, direction) and direction not in _directions(channel):
                reason = f"nobody on channel {name} has the function {direction}"
                yield Problem(f"{place}.{direction}", value, reason, f"legal: {', '.join(_directions(channel))}")


def _directions(channel: Channel) -> list[str]:
    """The directions in which weights travel on a channel."""
    tags = {tag for own in channel.func_tags.values() for tag in own}
    return [direction for direction in DIRECTIONS if direction in tags]
