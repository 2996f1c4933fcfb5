"""Which entries of the model the ends of each role exchange, where that differs from role to role."""

from collections.abc import Collection, Iterable, Iterator, Mapping

from roles import state as states
from roles.context import Context
from roles.rounds.average import WEIGHTS
from transports.base import Channel
from transports.message import Message


class Shares:
    """The model as the ends of an aggregator get it: whole, or without what is not for their role.

    Args:
        context: of the aggregator.
        channel_of: end -> its channel.
    """

    def __init__(self, context: Context, channel_of: Mapping[str, Channel]) -> None:
        self._channel_of = channel_of
        self._share_of = {end: context.settings.shares.get(context.peers[end].role) for end in channel_of}
        self._role_of = {end: context.peers[end].role for end in channel_of}
        self._parts: dict[str, Message] = {}
        self._whole: Message | None = None

    def begin(self, model: Message) -> None:
        """A round begins with `model`, as it is sent."""
        self._whole = model
        self._parts.clear()

    def message(self, end: str, model: Message) -> Message:
        """What `end` gets of the model of the round, under the scalars of `model`."""
        part = self._part(end)
        return model if part is self._whole else part.relabel(scalars=model.scalars)

    def entries(self, end: str) -> Collection[str] | None:
        """The entries that an update of `end` holds; None: all."""
        part = self._part(end)
        return None if part is self._whole else part.groups[WEIGHTS].keys()

    def by_message(self, ends: Iterable[str]) -> Iterator[tuple[Channel, list[str]]]:
        """`ends` by what they get and on which channel."""
        found: dict[tuple[str, int], list[str]] = {}
        for end in ends:
            found.setdefault((self._channel_of[end].spec.name, id(self._part(end))), []).append(end)
        for some in found.values():
            yield self._channel_of[some[0]], some

    def nbytes(self, ends: Iterable[str]) -> int:
        """How many bytes of tensors are handed down to `ends`."""
        return sum(self._part(end).nbytes for end in ends)

    def _part(self, end: str) -> Message:
        if self._whole is None:
            raise RuntimeError("no round has begun")
        share, role = self._share_of[end], self._role_of[end]
        if share is None:
            return self._whole
        if role not in self._parts:
            groups = {
                group: {name: value for name, value in tensors.items() if states.shares(name, share)}
                for group, tensors in self._whole.groups.items()
            }
            kept = {group: tensors for group, tensors in groups.items() if tensors}
            part = Message(self._whole.kind, self._whole.round, scalars=self._whole.scalars, groups=kept)
            self._parts[role] = part.packed()
        return self._parts[role]
