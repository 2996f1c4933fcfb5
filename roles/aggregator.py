"""The aggregator of every level: distributes a model to its ends and folds their updates.

One that binds `distribute` and `aggregate` only is a root and counts the rounds. With `fetch` and `upload`
bound as well it is a middle one, at any depth: its rounds come from above and its sums go there.
"""

import json
import time
from dataclasses import dataclass, replace

from roles.average import WEIGHTS, WeightedSum
from roles.check import check_header, check_values
from roles.collect import Close, Collect, Fold, Short, quorum
from roles.context import Context
from roles.errors import RoleError, RoundFailed
from roles.role import END, Role, expect, lost
from roles.root import Root
from roles.tags import function
from transports.base import Arrived, Channel, Event, Joined, Left, Offer
from transports.errors import PeerLost, ProtocolError, WaitTimeout
from transports.message import Message

ASK, ASSIGN, UPDATE, WEIGHTS_KIND = "ask", "assign", "update", "weights"
PREFETCHED = 1
"""Updates whose transfer may run while another one is added: the bound on what is in flight."""


@dataclass(frozen=True, slots=True)
class Task:
    """One round of an aggregator: the model to hand down and the ends that take part, in the order of the plan."""

    round: int
    model: Message
    ends: tuple[str, ...]
    parent: str | None = None
    """Whom the sum goes to; None at a root."""


class Aggregator(Role):
    """Folds updates into a weighted mean; see the module for what makes it a root or a middle one."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._left: dict[str, str] = {}

    def run(self) -> None:
        """Serve round after round; a root also evaluates, stores and ends the job."""
        root = None if self.bound("fetch") else Root(self.context)
        self.join()
        if root is not None:
            root.allocate = self.channel("distribute").allocate
        while (task := self.next_task(root)) is not None:
            self.context.reporter.entered(task.round)
            began = time.monotonic()
            self.perform("distribute", task)
            if root is not None:
                root.review()
            total = self.perform("aggregate", task)
            if root is not None:
                root.close(task.round, total, time.monotonic() - began)
            else:
                self.perform("upload", task, total)
        if root is not None:
            root.end()
            if self.bound("coordinate"):
                self.farewell([self.channel("coordinate")])
        self.farewell([self.channel("distribute")])

    def next_task(self, root: Root | None) -> Task | None:
        """The next round, or None at the end of the job."""
        task: Task | None
        if root is None:
            ends = self.channel("distribute").spec.ends
            if self.bound("coordinate"):
                assigned = self.perform("coordinate", None)
                if assigned is None:
                    return None
                ends = assigned
            task = self.perform("fetch")
            return None if task is None else replace(task, ends=ends)
        round = root.next_round()
        if round is None:
            return None
        chosen = self.perform("coordinate", round) if self.bound("coordinate") else self.channel("distribute").spec.ends
        return Task(round, root.model, chosen)

    @function("coordinate")
    def coordinate(self, channel: Channel, round: int | None) -> tuple[str, ...] | None:
        """The ends that take part in the next round; None at the end. A root asks for `round`, the others are told.

        A middle aggregator without ends sits the round out and waits on.

        Raises:
            RoundFailed: the coordinator found nobody for the root.
        """
        if round is not None:
            channel.send(Message(kind=ASK, round=round), channel.spec.ends)
        while True:
            message = self._take(channel)
            expect(message.kind, [ASSIGN, END], message.sender)
            if message.kind == END:
                return None
            ends = tuple(json.loads(str(message.scalars["ends"])))
            if ends:
                return ends
            if round is not None:
                raise RoundFailed(f"round {round}: the coordinator found no middle aggregator with trainers")

    @function("fetch")
    def fetch(self, channel: Channel) -> Task | None:
        """The model of the next round from above; None at the end."""
        message = self._take(channel)
        expect(message.kind, [WEIGHTS_KIND, END], message.sender)
        return None if message.kind == END else Task(message.round, message, (), message.sender)

    @function("distribute")
    def distribute(self, channel: Channel, task: Task) -> None:
        """Send the model of the round to its ends, packed once."""
        channel.send(task.model, task.ends)

    @function("aggregate")
    def aggregate(self, channel: Channel, task: Task) -> WeightedSum:
        """Fold the updates of the round in the order of the plan.

        Raises:
            RoundFailed: fewer than `min_ends` can deliver; the text names who and why.
        """
        allocate = Message.allocate if task.parent is None else self.channel("upload").allocate
        total = WeightedSum(task.model.specs[WEIGHTS], allocate)
        settings = self.context.settings.quorum
        collect = Collect(task.ends, needed=quorum(settings.min_ends, len(task.ends)), deadline=settings.deadline)
        for end in task.ends:
            if end in self._left:
                collect.lost(end, self._left[end])
        offers: dict[str, Offer] = {}
        while True:
            step = collect.next(time.monotonic())
            if isinstance(step, Close):
                return total
            if isinstance(step, Short):
                raise RoundFailed(f"round {task.round}: {step.reason}")
            if isinstance(step, Fold):
                for end in collect.upcoming(1 + PREFETCHED):
                    offers[end].prefetch()
                reason = self._fold(offers.pop(step.end), total)
                if reason is None:
                    collect.done(step.end)
                else:
                    collect.lost(step.end, reason)
                continue
            event = self._event(channel, step.until)
            if event is not None:
                self._note(event, task, total, collect, offers)

    @function("upload")
    def upload(self, channel: Channel, task: Task, total: WeightedSum) -> None:
        """Hand the sum to the aggregator above; returns when it has taken it.

        Raises:
            RoleError: it was refused; the text is the reason.
            PeerLost: the aggregator above is gone.
        """
        parent = task.parent or ""
        outcome = channel.send(total.message(task.round), [parent]).wait()[parent]
        if outcome.state == "refused":
            raise RoleError(f"{parent} refused the sum of round {task.round}: {outcome.reason}")
        if outcome.state == "lost":
            raise lost(parent, outcome.reason)

    def _take(self, channel: Channel) -> Message:
        """The next message on a channel towards somebody this worker cannot go on without."""
        while True:
            event = channel.receive()
            if isinstance(event, Arrived):
                return event.offer.take()
            if isinstance(event, Left) and not event.clean:
                raise lost(event.end, event.reason)

    def _event(self, channel: Channel, until: float | None) -> Event | None:
        """The next event of the channel, or None when `until` has passed."""
        try:
            return channel.receive(None if until is None else max(0.0, until - time.monotonic()))
        except WaitTimeout:
            return None

    def _note(self, event: Event, task: Task, total: WeightedSum, collect: Collect, offers: dict[str, Offer]) -> None:
        """Take one event of the round into account."""
        if isinstance(event, Joined):
            self._left.pop(event.end, None)
        elif isinstance(event, Left):
            self._left[event.end] = event.reason or "left"
            collect.lost(event.end, self._left[event.end])
            offers.pop(event.end, None)
        elif not collect.expects(event.end):
            event.offer.refuse(f"nothing is expected from {event.end} in round {task.round}")
        elif event.offer.header.round != task.round:
            # A straggler of another round says nothing about this one: its sender is still awaited.
            event.offer.refuse(f"update of round {event.offer.header.round} in round {task.round}")
        else:
            reason = check_header(event.offer.header, round=task.round, specs=total.specs, sum_specs=total.sum_specs)
            if reason is None:
                offers[event.end] = event.offer
                collect.offered(event.end, event.at)
            else:
                event.offer.refuse(reason)
                collect.lost(event.end, reason)

    def _fold(self, offer: Offer, total: WeightedSum) -> str | None:
        """Transfer one update, check it, add it; the reason if it could not be used."""
        try:
            message = offer.fetch()
        except (PeerLost, ProtocolError) as error:
            return str(error)
        state = message.groups[WEIGHTS]
        reason = check_values(state)
        if reason is not None:
            offer.refuse(reason)
            return reason
        scalars = message.scalars
        total.add(state, float(scalars["weight"]), int(scalars["samples"]), merged=bool(scalars.get("merged")))
        offer.accept()
        message.release()
        return None
