"""What a trainer does in a ring: alone with the other members, or as one of a group below an aggregator."""

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection

from lightning.pytorch import LightningModule

from roles.codecs.uploads import Uploads
from roles.context import Context
from roles.errors import RoundFailed
from roles.ring.circle import Beside
from roles.ring.ring import Reduced, Ring
from roles.ring.serverless import Serverless
from roles.rounds.check import check_values
from roles.upward import Upward
from transports.base import Channel, Event
from transports.message import Message

log = logging.getLogger(__name__)


class Member(ABC):
    """One worker of a ring, between the training and the upload of a round."""

    ring: Ring
    context: Context

    @abstractmethod
    def begin(self) -> Message | None:
        """The model of the next round; None at the end of the job. Only where no aggregator hands out models."""

    @abstractmethod
    def reduce(self, ticket: str, model: Message, parent: str, update: Message) -> Message | None:
        """Average `update`, which was made from `model`, with those of the other members.

        Returns:
            What goes up to `parent` from this member; None if nothing does.
        """

    def _reduced(self, ticket: str, update: Message) -> Reduced | None:
        """Reduce and report.

        Raises:
            RoundFailed, PeerLost: see `Ring.reduce`.
        """
        faults = (check_values(entries) for entries in update.groups.values())
        fault = next((reason for reason in faults if reason is not None), "")
        if fault:
            log.warning("%s: the update of round %d is not used: %s", self.context.name, update.round, fault)
            self.context.reporter.metrics(update.round, {"refused_updates": 1})
        try:
            reduced = self.ring.reduce(ticket, update.round, update, fault)
        finally:
            self.context.reporter.metrics(update.round, {"ring_bytes": self.ring.sent})
        if reduced is not None and reduced.by == self.context.name and self.ring.missing:
            for end, reason in self.ring.missing.items():
                log.warning("the ring of round %d goes without %s: %s", update.round, end, reason)
            self.context.reporter.metrics(update.round, {"missing_ends": len(self.ring.missing)})
        return reduced


class Peer(Member):
    """A member of a ring without an aggregator."""

    def __init__(
        self, context: Context, channel: Channel, module: LightningModule, farewell: Callable[[Collection[str]], None]
    ) -> None:
        self.context = context
        self._serverless = Serverless(context, channel, module, names_of(context), farewell)
        self.ring = self._serverless.ring

    def begin(self) -> Message | None:
        """The model of the next round; None at the end of the job."""
        return self._serverless.begin()

    def reduce(self, ticket: str, model: Message, parent: str, update: Message) -> Message | None:  # noqa: ARG002 - nobody is above
        """Average, and let the mean be the model. Nothing goes up."""
        reduced = self._reduced(ticket, update)
        if reduced is not None:
            self._serverless.close(update.round, reduced)
        return None


class Grouped(Member):
    """A member of a ring whose mean one of them, the leader, hands up for all.

    All of them fetch the model themselves, so that a group can go on whoever of it is lost; the update of the others is covered
    by that of the leader.
    """

    def __init__(
        self, context: Context, channels: tuple[Channel, Channel, Channel], upward: Callable[[], Upward], uploads: Uploads
    ) -> None:
        """`channels`: of the ring, of models, of answers."""
        channel, models, answers = channels
        self.context = context
        self._answers = answers
        self._upward = upward
        self._uploads = uploads
        self._ticket: str | None = None
        beside = Beside([models], lambda event: upward().note(event), lambda: upward().supersedes(self._ticket))
        quorum = context.settings.quorum_of(channel.spec.name)
        self.ring = Ring(context.endpoint, channel, quorum, names_of(context), beside=beside)

    def begin(self) -> Message | None:
        """An aggregator hands out models.

        Raises:
            RuntimeError: always.
        """
        raise RuntimeError("a group of a ring gets its models from an aggregator")

    def note(self, event: Event) -> None:
        """An event of the ring, while this member waits for its aggregator."""
        self.ring.circle.note(event)
        self.ring.serve()

    def reduce(self, ticket: str, model: Message, parent: str, update: Message) -> Message | None:
        """Average; the leader gets the sum, which goes up. The others have told `parent` by whom."""
        self._ticket = ticket
        upward = self._upward()
        try:
            reduced = self._reduced(ticket, update)
        except RoundFailed as error:
            log.warning("%s has no update of round %d: %s", self.context.name, update.round, error)
            upward.skip(parent, ticket, update.round, str(error), fault=not error.lost)
            return None
        if reduced is None:
            return None
        if reduced.by != self.context.name or reduced.total is None:
            upward.covered(parent, ticket, update.round, reduced.by)
            return None
        return self._uploads.of_sum(reduced.total, model, self._answers)


def names_of(context: Context) -> list[str]:
    """The numbers in updates that are added up."""
    return [name for each in context.parts for name in each.sums]
