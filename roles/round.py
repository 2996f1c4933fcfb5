"""One round of an aggregator: what happens on the channel goes to the state machine, what it decides is done."""

import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from torch import Tensor

from roles.average import WEIGHTS, Addend, WeightedSum
from roles.check import check_header, check_values
from roles.codecs.codec import Codec
from roles.collect import Close, Collect, Fold, Short
from roles.ends import Asked, Ends
from roles.errors import RoundFailed
from roles.kinds import AGAIN, SKIP, UPDATE
from roles.pieces import Adding
from roles.settings import Quorum
from roles.upward import next_event
from transports.base import END_OF_STREAM, Arrived, Channel, Event, Joined, Left, Offer, Stream
from transports.errors import PeerLost, ProtocolError, WaitTimeout
from transports.message import Message

log = logging.getLogger(__name__)
T = TypeVar("T")
PREFETCHED = 1
"""Updates whose transfer may run while another one is added: the bound on what is in flight."""
WHOLE_BYTES = 8 * 2**20
"""Updates up to this size are held whole while they are checked; larger ones are added piece by piece."""
SENDINGS = 3
"""How often an end that cannot read the model of a round is sent it once more."""


def collect_of(settings: Quorum, ends: Sequence[str]) -> Collect:
    """The state machine of a round with `ends`, by the policy."""
    needed = None if settings.tolerant else settings.needed(len(ends), 0)
    return Collect(ends, needed=needed, deadline=settings.deadline, rejoin_timeout=settings.rejoin_timeout)


class Round:
    """Collects the updates of one round into a sum.

    Args:
        model: what the ends were sent, with the number of the round.
        members: who takes part, in the order of the plan.
        ends: what is known of all ends.
        channel: where models go out.
        receive: takes a timeout in seconds and gives the next event of the ends.
        settings: the policy.
        codec: of the updates; None: they come as they are.
    """

    def __init__(
        self,
        model: Message,
        members: Sequence[str],
        ends: Ends,
        *,
        channel: Channel,
        receive: Callable[[float | None], Event],
        settings: Quorum,
        codec: Codec | None = None,
    ) -> None:
        self._model = model
        self._ends = ends
        self._channel = channel
        self._receive = receive
        self._codec = codec
        self._collect = collect_of(settings, members)
        self._offers: dict[str, Offer] = {}
        self._streams: dict[str, Stream] = {}
        """Of updates that will be added next, begun ahead of time."""
        self._added: dict[str, Offer] = {}
        """What was added piece by piece: kept by its sender until the sum is complete."""
        self._unread: Counter[str] = Counter()
        self._asked = Asked.by(model)
        for end in members:
            ends.suppose(end, self._asked)
            self._enter(end)

    @property
    def missing(self) -> dict[str, str]:
        """The ends without an update so far, and why."""
        return dict(self._collect.missing)

    def fold_into(self, total: WeightedSum) -> None:
        """Fold the updates of the round in the order of the plan.

        Raises:
            RoundFailed: fewer ends can deliver than are needed; the text names who and why.
        """
        while True:
            step = self._collect.next(time.monotonic())
            if isinstance(step, Close):
                for offer in self._added.values():
                    offer.accept()
                return
            if isinstance(step, Short):
                reason = f"round {self._model.round}: {step.reason}"
                for offer in [*self._offers.values(), *self._added.values()]:
                    offer.refuse(f"round {self._model.round} is over")
                raise RoundFailed(reason, lost=step.lost)
            if isinstance(step, Fold):
                self._fold(step.end, total)
                continue
            event = next_event(self._receive, step.until)
            if event is not None:
                self.note(event, total)

    def note(self, event: Event, total: WeightedSum) -> None:
        """Take one event into account."""
        if isinstance(event, Joined):
            self._ends.joined(event.end)
            if self._collect.back(event.end):
                self._ask(event.end)
        elif isinstance(event, Left):
            self._ends.left(event)
            self._offers.pop(event.end, None)
            self._streams.pop(event.end, None)
            self._enter(event.end)
        else:
            self._note_answer(event, total)

    def _enter(self, end: str) -> None:
        """Tell the state machine how it stands with `end`."""
        presence = self._ends.presence
        if end in self._ends.excluded:
            self._collect.lost(end, self._ends.excluded[end], "excluded")
        elif end in presence.gone:
            self._collect.lost(end, presence.gone[end])
        elif end in presence.away:
            self._collect.away(end, presence.away[end].reason, presence.away[end].since)

    def _ask(self, end: str) -> None:
        if self._ends.free(end):
            self._ends.ask(self._channel, self._model, [end])

    def _note_answer(self, event: Arrived, total: WeightedSum) -> None:
        end, offer, header = event.end, event.offer, event.offer.header
        asked = self._ends.answers(end, header)
        current = asked == self._asked and self._collect.expects(end)
        if header.kind in (SKIP, AGAIN):
            offer.accept()
            if current:
                self._note_refusal(end, header.kind == AGAIN, str(header.scalars.get("reason")), bool(header.scalars.get("fault")))
        elif not current:
            turn_away(self._ends, offer, end, self._why_not(end, header.round))
        else:
            encoded = None if self._codec is None else self._codec.specs(total.specs)
            reason = check_header(header, round=self._model.round, specs=total.specs, sum_specs=total.sum_specs, encoded=encoded)
            if reason is None:
                self._offers[end] = offer
                self._collect.offered(end, event.at)
            else:
                self._reject(end, offer, reason)
        if not current and self._collect.expects(end):
            # It is done with an earlier model, if it was at one.
            self._ask(end)

    def _note_refusal(self, end: str, again: bool, reason: str, fault: bool) -> None:
        """`end` has no update of this round, or could not read the model."""
        self._unread[end] += again
        if again and self._unread[end] <= SENDINGS:
            self._ask(end)
        elif again:
            self._collect.lost(end, f"could not read the model: {reason}", "refused")
        else:
            self._collect.lost(end, reason, "refused" if fault else "lost")

    def _why_not(self, end: str, round: int) -> str:
        if end in self._ends.excluded:
            return self._ends.excluded[end]
        if round < self._model.round:
            return f"round {round} is over"
        if round > self._model.round:
            return f"update of round {round} in round {self._model.round}"
        return f"nothing is expected from {end} in round {round}"

    def _reject(self, end: str, offer: Offer, reason: str) -> None:
        """Refuse an update for what is in it: its sender is out of this round."""
        told = self._ends.bad(end, reason)
        turn_away(self._ends, offer, end, told)
        self._collect.lost(end, told, "excluded" if end in self._ends.excluded else "refused")

    def _fold(self, end: str, total: WeightedSum) -> None:
        """Transfer one update, check it, add it."""
        if self._codec is None and self._offers[end].header.nbytes > WHOLE_BYTES:
            self._fold_pieces(end, total)
        else:
            self._fold_whole(end, total)

    def _fold_whole(self, end: str, total: WeightedSum) -> None:
        small = self._offers[end].header.nbytes <= WHOLE_BYTES
        for upcoming in self._collect.upcoming(1 + PREFETCHED if small else 1):
            self._offers[upcoming].prefetch()
        message = self._transferred(end, self._offers[end].fetch)
        if message is None:
            return
        offer = self._offers.pop(end)
        if self._codec is None:
            state: Mapping[str, Tensor | Addend] = message.groups[WEIGHTS]
            reason = check_values(message.groups[WEIGHTS])
        else:
            state = self._codec.entries(message.groups)
            reason = self._codec.check(message.groups, total.specs)
        if reason is not None:
            self._reject(end, offer, reason)
            return
        scalars = message.scalars
        total.add(state, float(scalars["weight"]), int(scalars["samples"]), merged=bool(scalars.get("merged")))
        offer.accept()
        message.release()
        self._ends.good(end)
        self._collect.done(end)

    def _fold_pieces(self, end: str, total: WeightedSum) -> None:
        """Add an update while it comes in; where it proves bad half-way, make the sum anew without it."""
        for upcoming in self._collect.upcoming(1 + PREFETCHED):
            if upcoming not in self._streams:
                self._streams[upcoming] = self._offers[upcoming].stream()
        stream, adding = self._streams.pop(end), Adding(total, self._offers[end].header)
        while (piece := self._transferred(end, stream.next)) is not None:
            if piece is END_OF_STREAM:
                adding.end()
                self._added[end] = self._offers.pop(end)
                self._ends.good(end)
                self._collect.done(end)
                return
            reason = adding.take(piece.offset, piece.data)
            if reason is not None:
                self._reject(end, self._offers.pop(end), reason)
                break
        if adding.begun:
            self._begin_anew(total)

    def _begin_anew(self, total: WeightedSum) -> None:
        total.clear()
        self._offers |= self._added
        self._added.clear()
        self._collect.begin_anew()

    def _transferred(self, end: str, receive: Callable[[float | None], T]) -> T | None:
        """What `receive` gives of the update of `end`, or None where it is not to be had; the state machine knows by then."""
        # Counted from here: that others were added first is not its fault.
        patience = None if self._collect.closes_at is None else self._collect.deadline
        while True:
            try:
                return receive(patience)
            except WaitTimeout:
                if self._collect.spares(end):
                    turn_away(self._ends, self._offers.pop(end), end, f"its transfer took longer than {patience:g} s")
                    self._collect.late(end)
                    return None
                # Without it there is no quorum: it may take its time.
                patience = None
            except PeerLost as error:
                del self._offers[end]
                self._collect.away(end, error.reason, time.monotonic())
                return None
            except ProtocolError as error:
                self._reject(end, self._offers.pop(end), str(error))
                return None


def turn_away(ends: Ends, offer: Offer, end: str, reason: str) -> None:
    """Refuse an update, count it and say so."""
    offer.refuse(reason)
    ends.rejected[end] += 1
    log.warning("the update of %s of round %d was refused: %s", end, offer.header.round, reason)


def note_between(ends: Ends, event: Event) -> None:
    """Take one event into account while no round is open: whoever answers now is too late."""
    if isinstance(event, Joined):
        ends.joined(event.end)
    elif isinstance(event, Left):
        ends.left(event)
    else:
        ends.answers(event.end, event.offer.header)
        if event.offer.header.kind == UPDATE:
            reason = ends.excluded.get(event.end, f"round {event.offer.header.round} is over")
            turn_away(ends, event.offer, event.end, reason)
        else:
            event.offer.accept()
