"""The way up: what a worker hears from its parents and its coordinator, and what it answers."""

import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence

from roles.errors import UnexpectedMessage
from roles.follow import Assigned, Assignment, Await, Follow, Over, Take, Turn
from roles.kinds import AGAIN, ASSIGN, COVERED, END, MODEL, SKIP, TICKET, ticket_of
from roles.presence import Stranded
from transports.base import Arrived, Channel, Endpoint, Event, Joined, Left, Offer, Outcome
from transports.errors import PeerLost, ProtocolError, WaitTimeout
from transports.message import Message, Scalar

log = logging.getLogger(__name__)


def next_event(receive: Callable[[float | None], Event], until: float | None) -> Event | None:
    """The next event of what `receive` waits on, or None when `until` has passed."""
    try:
        return receive(None if until is None else max(0.0, until - time.monotonic()))
    except WaitTimeout:
        return None


class Upward:
    """Receives models and assignments, tolerates parents and coordinators that go away for a while.

    Args:
        endpoint: of this worker.
        models: the channel on which models come.
        answers: the channel on which they are answered.
        coordinator: the channel of the coordinator, if there is one.
        chosen_parent: whether an assignment names the parent, and not the ends below.
        timeouts: seconds for which parents and coordinators that are away are waited for.
        greet: called when a coordinator has joined, for the first time or again.
        below: the channels of this worker's own ends, and what becomes of their events meanwhile: who waits for its parent must
            not be deaf for those who wait for it.
        obeys: whether the coordinator says which models are taken.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        models: Channel,
        answers: Channel,
        coordinator: Channel | None,
        *,
        chosen_parent: bool,
        timeouts: tuple[float, float],
        greet: Callable[[], object] = lambda: None,
        below: tuple[Sequence[Channel], Callable[[Event], object]] = ((), lambda event: None),  # noqa: ARG005 - there are none
        obeys: bool = True,
    ) -> None:
        self._models = models
        self._answers = answers
        self._name = endpoint.name
        self._endpoint = endpoint
        self._channels = [*([] if coordinator is None else [coordinator]), models, *below[0]]
        self._below = {channel.spec.name: below[1] for channel in below[0]}
        self._greet = greet
        coordinators = () if coordinator is None else coordinator.spec.ends
        self._follow = Follow(
            models.spec.ends, coordinators, chosen_parent=chosen_parent, timeouts=timeouts, now=time.monotonic(), obeys=obeys
        )
        self._taken: str | None = None

    @property
    def over(self) -> bool:
        """Whether the end of the job was announced."""
        return self._follow.over

    def assignment(self) -> Assignment | None:
        """What the coordinator wants of this worker next; None at the end of the job.

        Raises:
            PeerLost: the coordinator is gone.
        """
        while True:
            step = self._step(model=False)
            if isinstance(step, Assigned):
                return step.assignment
            if isinstance(step, Over):
                return None

    def model(self) -> Message | None:
        """The next model; None at the end of the job, and when the coordinator has changed its mind.

        Raises:
            PeerLost: there is nobody left who could send one.
        """
        while True:
            step = self._step(model=True)
            if isinstance(step, Take) and self._answered(step.offer):
                # It came twice, the second time before the answer to the first was taken.
                self._refuse_again(step.offer)
            elif isinstance(step, Take):
                message = self._fetch(step)
                if message is not None:
                    return message
            elif isinstance(step, Assigned | Over):
                return None

    def answer(self, channel: Channel, parent: str, ticket: str | None, update: Message) -> Outcome:
        """Hand `update` to `parent` on `channel`, as the answer to the model of `ticket`; returns when its fate is known."""
        delivery = channel.send(ticketed(update, ticket), [parent])
        while (event := self._endpoint.attend(self._channels, delivery)) is not None:
            self._note(event)
        outcome = delivery.wait()[parent]
        if outcome.accepted:
            self._taken = ticket
        elif outcome.state == "refused":
            log.warning("%s: %s refused the update of round %d: %s", self._name, parent, update.round, outcome.reason)
        else:
            log.warning("%s: %s was lost during the update of round %d: %s", self._name, parent, update.round, outcome.reason)
        return outcome

    def skip(self, parent: str, ticket: str | None, round: int, reason: str, *, fault: bool, starved: bool = False) -> None:
        """Tell `parent` that there will be no update of `round`.

        `fault`: not only because workers were lost; `starved`: because none could be lent.
        """
        self._send(SKIP, parent, ticket, round, {"reason": reason, "fault": fault, "starved": starved})

    def covered(self, parent: str, ticket: str | None, round: int, by: str) -> None:
        """Tell `parent` that the update of `round` is in that of `by`, another of its ends."""
        self._send(COVERED, parent, ticket, round, {"by": by})

    def supersedes(self, ticket: str | None) -> bool:
        """Whether the job is over, or another model than that of `ticket` has come."""
        return self.over or any(other != ticket for other in self._follow.tickets)

    def note(self, event: Event) -> None:
        """Take into account an event that somebody else has received."""
        self._note(event)

    def _send(self, kind: str, parent: str, ticket: str | None, round: int, scalars: Mapping[str, Scalar]) -> None:
        self._answers.send(ticketed(Message(kind=kind, round=round, scalars=scalars), ticket), [parent])

    def _step(self, *, model: bool) -> Take | Assigned | Over:
        """The next step that is not waiting."""
        while True:
            # What has come already may replace what is at hand.
            while (event := next_event(self._receive, 0.0)) is not None:
                self._note(event)
            step = self._follow.next(time.monotonic(), model=model)
            if isinstance(step, Turn):
                step.offer.refuse(step.reason)
                self.skip(step.end, ticket_of(step.offer.header.scalars), step.offer.header.round, step.reason, fault=False)
            elif isinstance(step, Stranded):
                raise PeerLost(step.end, step.reason)
            elif isinstance(step, Await):
                event = next_event(self._receive, step.until)
                if event is not None:
                    self._note(event)
            else:
                return step

    def _receive(self, timeout: float | None) -> Event:
        return self._endpoint.receive(self._channels, timeout)

    def _note(self, event: Event) -> None:
        if event.channel in self._below:
            self._below[event.channel](event)
            return
        coordinator = event.channel != self._models.spec.name
        if isinstance(event, Joined):
            self._follow.joined(event.end, coordinator=coordinator)
            if coordinator:
                self._greet()
        elif isinstance(event, Left):
            final = event.final or event.clean
            self._follow.left(event.end, event.reason, final=final, coordinator=coordinator, now=time.monotonic())
        else:
            self._note_offer(event, coordinator=coordinator)

    def _note_offer(self, event: Arrived, *, coordinator: bool) -> None:
        header, offer = event.offer.header, event.offer
        if header.kind == END:
            offer.accept()
            self._follow.end()
        elif header.kind == (ASSIGN if coordinator else MODEL):
            if coordinator:
                offer.accept()
                parent = header.scalars.get("parent")
                self._follow.assigned(Assignment(header.round, ends_of(header.scalars), None if parent is None else str(parent)))
            elif self._answered(offer):
                self._refuse_again(offer)
            else:
                self._replace(self._follow.offered(event.end, offer))
        else:
            expected = [ASSIGN if coordinator else MODEL, END]
            offer.refuse(f"kind {header.kind!r} is not expected here")
            raise UnexpectedMessage(f"{event.end} sent {header.kind!r} where one of {expected} is expected")

    def _answered(self, offer: Offer) -> bool:
        """Whether a model is the one that was answered last."""
        return self._taken is not None and ticket_of(offer.header.scalars) == self._taken

    @staticmethod
    def _refuse_again(offer: Offer) -> None:
        offer.refuse(f"the update of round {offer.header.round} was taken")

    @staticmethod
    def _replace(former: Offer | None) -> None:
        if former is not None:
            former.refuse("a newer model has come")

    def _fetch(self, step: Take) -> Message | None:
        """The model, or None where it could not be had: then it comes again."""
        header = step.offer.header
        try:
            return step.offer.take()
        except PeerLost as error:
            log.warning("%s: the model of round %d was lost on its way: %s", self._name, header.round, error)
        except ProtocolError as error:
            log.warning("%s: the model of round %d from %s is not whole: %s", self._name, header.round, step.end, error)
            step.offer.refuse(str(error))
            self._send(AGAIN, step.end, ticket_of(header.scalars), header.round, {"reason": str(error)})
        return None


def ends_of(scalars: Mapping[str, Scalar]) -> tuple[str, ...]:
    """The names that an assignment carries.

    Raises:
        UnexpectedMessage: it carries something else.
    """
    try:
        ends = json.loads(str(scalars["ends"]))
    except (KeyError, ValueError) as error:
        raise UnexpectedMessage(f"an assignment without a list of ends: {dict(scalars)!r}") from error
    if not isinstance(ends, list) or not all(isinstance(end, str) for end in ends):
        raise UnexpectedMessage(f"an assignment whose ends are {ends!r}")
    return tuple(ends)


def ticketed(message: Message, ticket: str | None) -> Message:
    """`message` under `ticket`; the tensors are the same."""
    return message if ticket is None else message.relabel(scalars={**message.scalars, TICKET: ticket})
