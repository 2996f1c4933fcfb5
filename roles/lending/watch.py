"""An aggregator of an asynchronous job that listens to its coordinator, too: whether it is there, and when the job is over."""

import time
from collections.abc import Callable, Sequence
from typing import Any

from typing_extensions import override

from roles.kinds import ASSIGN, END
from roles.presence import Presence, Stranded
from roles.role import expect, lost
from roles.rounds.average import WeightedSum
from roles.rounds.round import Round
from transports.base import Arrived, Channel, Event, Joined, Left
from transports.errors import WaitTimeout
from transports.message import Header, Message


class Watch:
    """Follows whether the coordinator is there, for those who need nothing else of it.

    Args:
        channel: of the coordinator.
        timeout: seconds for which it is waited for when it is away.
    """

    def __init__(self, channel: Channel, timeout: float) -> None:
        self.channel = channel
        self._timeout = timeout
        self._presence = Presence(channel.spec.ends, time.monotonic())
        self._over = False

    def receive(self, receive: Callable[[float | None], Event], timeout: float | None) -> Event:
        """The next event of what `receive` waits on.

        Raises:
            WaitTimeout: none came within `timeout` seconds.
            PeerLost: the coordinator is gone.
        """
        self.settle()
        until = None if timeout is None else time.monotonic() + timeout
        while True:
            now = time.monotonic()
            patience = None if self._over else self._presence.patience(now, self._timeout)
            if isinstance(patience, Stranded):
                raise lost(patience.end, patience.reason)
            limit = min((each for each in (until, patience) if each is not None), default=None)
            try:
                return receive(None if limit is None else max(0.0, limit - now))
            except WaitTimeout:
                if until is not None and time.monotonic() >= until:
                    raise

    def note(self, event: Event) -> bool:
        """Take one event into account; whether it was of the coordinator.

        Raises:
            UnexpectedMessage: the coordinator sent something else.
        """
        if event.channel != self.channel.spec.name:
            return False
        if isinstance(event, Joined):
            self._presence.joined(event.end)
            self.greet()
        elif isinstance(event, Left):
            self._presence.left(event.end, event.reason, final=event.final or event.clean, now=time.monotonic())
        else:
            self._note_message(event)
        return True

    def _note_message(self, event: Arrived) -> None:
        header = event.offer.header
        expect(header.kind, [ASSIGN, END], event.end)
        event.offer.accept()
        if header.kind == END:
            self._over = True
            self.stop()
        else:
            self.assigned(header)

    def begin(self, round: int) -> None:
        """A round begins."""

    def end(self) -> None:
        """The round is over."""

    def settle(self) -> None:
        """Say what has changed."""

    def greet(self) -> None:
        """The coordinator is there, for the first time or again."""

    def assigned(self, header: Header) -> None:
        """The coordinator has spoken."""

    def stop(self) -> None:
        """The job is over."""


class WatchedRound(Round):
    """A round of an asynchronous aggregator that listens to its coordinator, too.

    Args:
        watch: what becomes of the coordinator's events.
        arguments: see `Round`.
        options: see `Round`.
    """

    def __init__(self, watch: Watch, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._watch = watch

    @override
    def begin(self, model: Message, members: Sequence[str]) -> None:
        super().begin(model, members)
        self._watch.begin(model.round)

    @override
    def _close(self) -> None:
        super()._close()
        self._watch.end()

    @override
    def _give_up(self) -> None:
        super()._give_up()
        self._watch.end()

    @override
    def note(self, event: Event, total: WeightedSum) -> None:
        if not self._watch.note(event):
            super().note(event, total)

    @override
    def _fold(self, end: str, total: WeightedSum) -> None:
        super()._fold(end, total)
        self._watch.settle()
