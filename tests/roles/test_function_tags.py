from typing import Any

import pytest

import roles
from roles.aggregator import Aggregator
from roles.algorithms.fedavg import FedAvg
from roles.context import Context
from roles.coordinator import Coordinator
from roles.errors import UnexpectedMessage
from roles.null import NullTrainer
from roles.role import Role, expect
from roles.settings import Settings
from roles.tags import BUILTIN_CHANNELS, BUILTIN_TAGS, channels_per_tag, function
from roles.trainer import Trainer
from tests.roles.federation import Record, Reporter
from transports.base import Channel, ChannelSpec
from transports.inproc import Hub, InprocEndpoint


@pytest.mark.parametrize("role", [Trainer, Aggregator, Coordinator, NullTrainer])
def test_the_built_in_roles_expose_the_tags_that_plan_knows(role: type[Role]) -> None:
    assert sorted(role.get_func_tags()) == sorted(BUILTIN_TAGS[f"roles.{role.__name__}"])
    most = BUILTIN_CHANNELS.get(f"roles.{role.__name__}", {})
    assert channels_per_tag(role) == {tag: most.get(tag, 1) for tag in role.get_func_tags()}
    assert getattr(roles, role.__name__) is role


class Chatty(Role):
    """Notes what runs."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.calls: list[tuple[Any, ...]] = []

    def run(self) -> None:
        self.perform("first", 1, 2)

    @function("first")
    def start(self, channel: Channel, *arguments: int) -> int:
        self.calls.append(("first", channel.spec.name, *arguments))
        return sum(arguments)

    @function("second", after="first")
    def go_on(self, channel: Channel) -> None:
        self.calls.append(("second", channel.spec.name))

    @function("third", after="second", channels=2)
    def end(self, channel: Channel) -> None:
        self.calls.append(("third", channel.spec.name))


class Loud(Chatty):
    """Overrides a function without its mark and adds one."""

    def go_on(self, channel: Channel) -> None:
        self.calls.append(("SECOND", channel.spec.name))

    @function("extra", after="first")
    def more(self, channel: Channel) -> None:
        self.calls.append(("extra", channel.spec.name))


def chatty(code: type[Chatty], tags: dict[str, tuple[str, ...]]) -> Chatty:
    endpoint = InprocEndpoint("w-0", Hub())
    names = sorted({name for bound in tags.values() for name in bound})
    context = Context(
        name="w-0",
        role="w",
        index=0,
        endpoint=endpoint,
        channels={name: ChannelSpec(name=name, group="default", ends=("x-0",)) for name in names},
        tags=tags,
        peers={},
        groups={},
        settings=Settings(),
        strategy=FedAvg(),
        reporter=Reporter(Record()),
    )
    return code(context)


def test_a_function_runs_on_the_channel_that_its_tag_is_bound_to() -> None:
    role = chatty(Chatty, {"first": ("left",)})
    assert role.perform("first", 3, 4) == 7
    assert role.calls == [("first", "left", 3, 4)]
    assert role.bound("first")
    assert not role.bound("second")


def test_functions_declared_to_come_after_follow_where_they_are_bound() -> None:
    role = chatty(Chatty, {"first": ("left",), "second": ("right",)})
    role.run()
    assert role.calls == [("first", "left", 1, 2), ("second", "right")]


def test_followers_have_followers() -> None:
    role = chatty(Chatty, {"first": ("left",), "second": ("right",), "third": ("left",)})
    role.run()
    assert [call[0] for call in role.calls] == ["first", "second", "third"]


def test_a_subclass_overrides_without_repeating_the_mark_and_adds_its_own() -> None:
    assert Loud.get_func_tags() == ["first", "second", "third", "extra"]
    assert channels_per_tag(Loud) == {"first": 1, "second": 1, "third": 2, "extra": 1}
    role = chatty(Loud, {"first": ("left",), "second": ("left",), "extra": ("right",)})
    role.run()
    assert role.calls == [("first", "left", 1, 2), ("SECOND", "left"), ("extra", "right")]


@pytest.mark.parametrize(("tag", "channels"), [("", 1), ("x", 0)])
def test_a_mark_needs_a_tag_and_a_channel(tag: str, channels: int) -> None:
    with pytest.raises(ValueError, match="needs a tag and at least one channel"):
        function(tag, channels=channels)


def test_a_message_of_an_unexpected_kind_is_named_with_its_sender_and_the_expected_ones() -> None:
    expect("end", ["assign", "end"], "coordinator-0")
    with pytest.raises(UnexpectedMessage, match=r"top-0 sent 'weights' where one of \['assign', 'end'\] is expected"):
        expect("weights", ["assign", "end"], "top-0")
