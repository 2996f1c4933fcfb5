"""Training without aggregators: the members of a ring hold the global model themselves, and their leader keeps it.

The leader is the root of the job: it counts the rounds, calls the others to train, evaluates, stores checkpoints and says when
the job is over. A member whose model is not the leader's (one that came late, or was started anew, or missed a round; before
the first round: one that was built otherwise) gets it with the call. Where a leader is gone for good, the next one goes on from the
newest checkpoint that it finds, or from its own model, or from that of a member that is further.
"""

import hashlib
import logging
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace

from lightning.pytorch import LightningModule

from roles import state as states
from roles.context import Context
from roles.errors import RoundFailed
from roles.kinds import MODEL as WEIGHTS_KIND
from roles.kinds import TICKET
from roles.ring.kinds import BEGIN, MODEL, WANT
from roles.ring.lead import Call, roll_call
from roles.ring.ring import Reduced, Ring
from roles.root import Root
from roles.rounds.average import WeightedSum
from roles.rounds.collect import Close, Wait
from transports.base import Channel, Delivery, Offer
from transports.errors import PeerLost, ProtocolError
from transports.message import Message

log = logging.getLogger(__name__)


class Serverless:
    """One member of a ring that trains when its leader calls, and leads when it is its turn.

    Args:
        context: of the worker.
        channel: of the ring.
        module: the worker's own, as it was built.
        names: of the numbers in updates that are added up.
        farewell: tells everybody that the job is over; those whom it is given are gone.
    """

    def __init__(
        self,
        context: Context,
        channel: Channel,
        module: LightningModule,
        names: Sequence[str],
        farewell: Callable[[Collection[str]], None],
    ) -> None:
        self.context = context
        self.ring = Ring(context.endpoint, channel, context.settings.quorum_of(channel.spec.name), names, server=self)
        self._channel = channel
        self._farewell = farewell
        groups = states.shared_state(module, context.settings.share)
        self._model = Message(WEIGHTS_KIND, 0, groups={name: group for name, group in groups.items() if group}).packed()
        # What a module is packed from is trained on: the model must keep its values.
        self._digest = digest_of(self._model)
        self._root: Root | None = None
        self._began = 0.0
        self._soon: tuple[str, ...] = ()
        """Who will say in a moment where it is: those who have just finished a round."""
        self._calls: dict[str, Delivery] = {}
        """Models on their way to members."""
        self.ring.circle.standing = replace(self.ring.circle.standing, digest=self._digest)

    @property
    def ticket(self) -> str:
        """What ties updates of the next round to the model that they are made from."""
        return f"{self._model.round + 1}-{self._digest}"

    def begin(self) -> Message | None:
        """The model of the next round, with the number of the round; None at the end of the job.

        Raises:
            PeerLost: the leader is away for too long.
            RoundFailed: too few members are there to begin.
        """
        circle = self.ring.circle
        if circle.standing.trained is not None:
            circle.stand(trained=None)
        while not circle.over:
            order = circle.next_order()
            if order is not None:
                model = self._obey(*order)
                if model is not None:
                    return model
            elif circle.succession.leads:
                return self._open(self._lead())
            else:
                circle.await_leader()
        return None

    def close(self, round: int, reduced: Reduced) -> None:
        """Let the mean of the round be the model. Where the sum is missing here, the leader sends the model."""
        circle = self.ring.circle
        if reduced.total is None:
            return
        if circle.succession.leads and self._root is not None:
            self._soon = tuple(end for end, standing in circle.standings.items() if standing.trained == self.ticket)
            for end in self._soon:
                del circle.standings[end]
            self._root.close(round, reduced.total, time.monotonic() - self._began)
            self._hold(self._root.model, round)
        else:
            self._hold(following(reduced.total, self._model), round)
        circle.stand(round=round, digest=self._digest, trained=None)

    def call(self, ends: Sequence[str]) -> None:
        """Let these members train the round; whoever has another model gets this one with it."""
        standings, scalars = self.ring.circle.standings, {"trained": self.ticket, "digest": self._digest}
        free = [end for end in ends if end not in self._calls or self._calls[end].done()]
        model = self._model.relabel(kind=BEGIN, round=self._model.round + 1, scalars=scalars)
        bare = Message(BEGIN, model.round, scalars=scalars)
        # One by one: whether a member may be called again is for its own answer to say, not for those of all.
        for end in free:
            same = standings[end].digest == self._digest
            self._calls[end] = self._channel.send(bare if same else model, [end])

    def take_over(self, trained: str) -> bool:
        """Begin to lead, on the way to the sum of `trained`; whether that round is over elsewhere."""
        root = self._lead()
        self._began = time.monotonic()
        return self.ticket != trained or root.next_round() is None

    def wants(self, end: str) -> None:
        """Send the model of this member to `end`, who leads."""
        self._channel.send(self._model.relabel(kind=MODEL, scalars={"digest": self._digest}), [end])

    # -- at the leader

    def _open(self, root: Root) -> Message | None:
        """Begin a round: call those who are there."""
        round = root.next_round()
        if round is None:
            root.end()
            self._farewell(self.ring.circle.succession.presence.gone)
            self.ring.circle.over = True
            return None
        self._began = time.monotonic()
        self._await_standings()
        lead = self.ring.open(self.ticket)
        while isinstance(step := lead.next(time.monotonic()), Call):
            self.call(step.ends)
        # Not beside the training: both draw from the generators of this process.
        root.review(wait=True)
        return self._of_round()

    def _await_standings(self) -> None:
        """Let those say where they are who have just finished a round: then they need no model."""
        circle, soon = self.ring.circle, self._soon
        until = time.monotonic() + circle.rejoin_timeout
        while any(end in circle.present and end not in circle.standings for end in soon) and circle.pump(until):
            pass

    def _lead(self) -> Root:
        """The root, which is built when this member leads for the first time."""
        if self._root is None:
            # Whoever takes the lead over finds what the one before it has stored.
            resume = self.context.resume or self.context.name != self.ring.circle.succession.members[0]
            root = Root(replace(self.context, resume=resume))
            if root.model.round < self._model.round:
                root.adopt(self._model)
            else:
                self._hold(root.model, root.model.round)
            self._catch_up(root)
            self._root = root
        return self._root

    def _catch_up(self, root: Root) -> None:
        """Hear where everybody is; go on from the model of whoever is furthest."""
        circle = self.ring.circle
        while True:
            self._roll_call()
            standings = circle.standings
            end = max(standings, key=lambda each: standings[each].round, default=circle.me)
            if end == circle.me or standings[end].round <= self._model.round:
                break
            model = self._model_of(end)
            if model is not None:
                root.adopt(model)
                self._hold(root.model, model.round)
        circle.standing = replace(circle.standing, round=self._model.round, digest=self._digest)

    def _roll_call(self) -> None:
        circle = self.ring.circle
        while True:
            circle.drain()
            heard = [circle.me, *circle.standings]
            step = roll_call(self.ring.collect(), heard, circle.succession.presence, time.monotonic())
            if isinstance(step, Close):
                return
            if not isinstance(step, Wait):
                raise RoundFailed(f"round {self._model.round + 1}: {step.reason}", lost=step.lost)
            circle.pump(step.until)

    def _model_of(self, end: str) -> Message | None:
        """The model of a member that is further; None if it left."""
        circle = self.ring.circle
        circle.send(WANT, self._model.round, [end])
        while end in circle.present:
            order = circle.next_order()
            if order is None:
                circle.pump(None)
            elif order[0] == end and order[1].header.kind == MODEL:
                return _taken(order[1])
            else:
                order[1].refuse(f"{circle.me} leads")
        return None

    # -- at the others

    def _obey(self, leader: str, order: Offer) -> Message | None:
        circle, header = self.ring.circle, order.header
        if leader != circle.succession.leader or header.kind != BEGIN:
            order.refuse(f"{circle.me} waits for a round")
            return None
        if not header.specs:
            order.accept()
            if header.scalars["digest"] == self._digest:
                return self._of_round()
            # It was meant for what this worker was before it was started anew, or has not come in time.
            circle.stand()
            return None
        model = _taken(order)
        if model is None:
            circle.stand()
            return None
        self._hold(model, model.round - 1)
        circle.standing = replace(circle.standing, round=self._model.round, digest=self._digest)
        return self._of_round()

    def _of_round(self) -> Message:
        return self._model.relabel(kind=WEIGHTS_KIND, round=self._model.round + 1, scalars={TICKET: self.ticket})

    def _hold(self, model: Message, round: int) -> None:
        self._model = model.relabel(kind=WEIGHTS_KIND, round=round, scalars={})
        self._digest = digest_of(self._model)


def digest_of(model: Message) -> str:
    """Hex SHA-256 of the values of a packed model."""
    return hashlib.sha256(model.buffer.numpy().data).hexdigest()


def following(total: WeightedSum, model: Message) -> Message:
    """The model that follows from the sum of a round, as every member makes it: the mean, in the types of the model."""
    means = total.means()
    result = total.memory if total.memory.specs == model.specs else Message.allocate(model.kind, model.round, model.specs)
    for group, tensors in model.groups.items():
        for name, value in tensors.items():
            mean = means.get(group, {}).get(name, value)
            target = result.groups[group][name]
            if mean.data_ptr() != target.data_ptr():
                target.copy_(mean)
    return result


def _taken(offer: Offer) -> Message | None:
    """The message of an offer; None if it did not come whole."""
    try:
        return offer.take()
    except PeerLost as error:
        log.warning("a model was lost on its way: %s", error)
    except ProtocolError as error:
        log.warning("a model of %s is not whole: %s", offer.header.sender, error)
        offer.refuse(str(error))
    return None
