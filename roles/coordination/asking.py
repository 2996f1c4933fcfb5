"""A root and its coordinator: the question who takes part in a round, asked until it is answered."""

import time
from collections.abc import Callable, Sequence

from roles.errors import RoundFailed
from roles.kinds import ASK, ASSIGN
from roles.presence import Presence, Stranded
from roles.role import expect, lost
from roles.upward import ends_of, next_event
from transports.base import Channel, Endpoint, Event, Joined, Left
from transports.message import Header, Message


class Asking:
    """Asks the coordinator, and once more whenever it was away: neither question nor answer outlives a connection.

    Args:
        endpoint: of this worker.
        channel: of the coordinator.
        below: the channels of this worker's own ends, and what becomes of their events meanwhile.
        rejoin_timeout: seconds for which it is waited for when it is away.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        channel: Channel,
        below: tuple[Sequence[Channel], Callable[[Event], object]],
        rejoin_timeout: float,
    ) -> None:
        self._endpoint = endpoint
        self._channel = channel
        self._below = below
        self._timeout = rejoin_timeout
        self._presence = Presence(channel.spec.ends, time.monotonic())

    def ask(self, round: int) -> tuple[str, ...]:
        """The ends that take part in `round`.

        Raises:
            RoundFailed: the coordinator found nobody.
            PeerLost: the coordinator is gone.
        """
        while (event := next_event(self._receive, 0.0)) is not None:
            self._note(event)
        self._send(round)
        while True:
            patience = self._presence.patience(time.monotonic(), self._timeout)
            if isinstance(patience, Stranded):
                raise lost(patience.end, patience.reason)
            event = next_event(self._receive, patience)
            answer = None if event is None else self._note(event)
            if isinstance(event, Joined) and event.channel == self._channel.spec.name:
                self._send(round)
            if answer is not None and answer.round == round:
                return self._found(answer)

    def _receive(self, timeout: float | None) -> Event:
        return self._endpoint.receive([self._channel, *self._below[0]], timeout)

    def _send(self, round: int) -> None:
        self._channel.send(Message(kind=ASK, round=round), self._channel.spec.ends)

    def _note(self, event: Event) -> Header | None:
        """Take one event into account; returns what the coordinator says."""
        if event.channel != self._channel.spec.name:
            self._below[1](event)
        elif isinstance(event, Joined):
            self._presence.joined(event.end)
        elif isinstance(event, Left):
            final = event.final or event.clean
            self._presence.left(event.end, event.reason, final=final, now=time.monotonic())
        else:
            expect(event.offer.header.kind, [ASSIGN], event.end)
            event.offer.accept()
            return event.offer.header
        return None

    @staticmethod
    def _found(answer: Header) -> tuple[str, ...]:
        ends = ends_of(answer.scalars)
        if not ends:
            reason = answer.scalars.get("reason", "the coordinator found no middle aggregator with trainers")
            raise RoundFailed(f"round {answer.round}: {reason}")
        return ends
