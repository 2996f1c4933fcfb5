"""The base of all roles: functions bound to channels by tags, joining, and the farewell."""

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable
from functools import partial
from typing import Any

from roles.context import Context
from roles.errors import UnexpectedMessage
from roles.keep import WorkerState
from roles.meeting import meet, part
from roles.tags import followers, marked_functions, marked_tags
from transports.base import Channel, ChannelSpec
from transports.errors import PeerLost


class Role(ABC):
    """What a worker does. Subclass it, mark methods with `@function("tag")`, and bind the tags in the schema.

    A marked method takes the channel that its tag is bound to, then whatever its caller passes. One marked
    `@function("tag", after="other")` runs by itself each time `other` has run, if the schema binds it.
    """

    def __init__(self, context: Context) -> None:
        self.context = context
        self.keep = WorkerState(context)
        self._channels: dict[str, Channel] = {}

    @classmethod
    def get_func_tags(cls) -> list[str]:
        """The function tags that the schema may bind for this role."""
        return marked_tags(cls)

    @abstractmethod
    def run(self) -> None:
        """Do the worker's whole job; returns when it is over. No channel is open yet: call `join` when ready."""

    def bound(self, tag: str) -> bool:
        """Whether the schema binds `tag` for this role."""
        return bool(self.context.tags.get(tag))

    def channel(self, tag: str) -> Channel:
        """The channel on which `tag` is bound.

        Raises:
            KeyError: it is bound to none.
        """
        return self._channel(self.context.tags[tag][0])

    def _channel(self, name: str) -> Channel:
        if name not in self._channels:
            self._channels[name] = self.context.endpoint.open(self.context.channels[name])
        return self._channels[name]

    def perform(self, tag: str, *arguments: Any) -> Any:
        """Run the function marked `tag` on its channel, then the bound functions declared to come after it."""
        result = self._call(tag, *arguments)
        for later in followers(type(self), tag):
            if self.bound(later):
                self.perform(later)
        return result

    def _call(self, tag: str, *arguments: Any) -> Any:
        return marked_functions(type(self))[tag](self, self.channel(tag), *arguments)

    def needed_ends(self, channel: ChannelSpec, gone: int) -> int:  # noqa: ARG002 - for those that can do without some
        """How many ends of `channel` must be there before the first round, where `gone` will not come. Here: all of them."""
        return len(channel.ends)

    def join(self) -> None:
        """Open every channel and wait until all of its ends are there: whoever has joined is ready for its first round.

        After `join_timeout` as many as `needed_ends` says will do.

        Raises:
            WaitTimeout: names the ends that are missing.
            PeerLost: an end that is needed is gone.
        """
        self.context.reporter.prepared()
        for channel in [self._channel(name) for name in self.context.channels]:
            timeout = self.context.settings.quorum_of(channel.spec.name).join_timeout
            meet(channel, partial(self.needed_ends, channel.spec), timeout)

    def farewell(self, channels: Iterable[Channel], gone: Collection[str] = ()) -> None:
        """Tell everyone on `channels` that the job is over and wait until each has taken it or is gone; `gone` are already.

        An end that is away hears it when it is back within `rejoin_timeout`.
        """
        quorum = self.context.settings.quorum
        part(list(channels), gone, timeout=quorum.join_timeout, rejoin_timeout=quorum.rejoin_timeout)


def expect(message_kind: str, expected: Iterable[str], end: str) -> None:
    """Check the kind of a message.

    Raises:
        UnexpectedMessage: it is none of `expected`.
    """
    allowed = list(expected)
    if message_kind not in allowed:
        raise UnexpectedMessage(f"{end} sent {message_kind!r} where one of {allowed} is expected")


def lost(end: str, reason: str) -> PeerLost:
    """The error of a role that cannot go on without `end`."""
    return PeerLost(end, reason or "left before the end of the job")
