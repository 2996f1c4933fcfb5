"""One round of an aggregator: what happens on the channel goes to the state machine, what it decides is done."""

import logging
import math
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TypeVar

from torch import Tensor

from roles.average import WEIGHTS, Addend, WeightedSum
from roles.check import check_header, check_values
from roles.codecs.codec import Codec
from roles.collect import Close, Collect, Fold, Short
from roles.ends import Asked, Ends
from roles.errors import RoundFailed
from roles.gather import Ask, Gather
from roles.kinds import AGAIN, SKIP, VIRTUAL_TIME
from roles.part import Report
from roles.pieces import Adding
from roles.upward import next_event
from transports.base import END_OF_STREAM, Arrived, Event, Joined, Left, Offer, Stream
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


class Round:
    """Collects updates into a sum: those of one round, or, with `Gather`, round after round whatever comes.

    Args:
        collect: decides what to do; knows who takes part.
        ends: what is known of all ends.
        ask: sends a model to an end.
        receive: takes a timeout in seconds and gives the next event of the ends.
        codec: of the updates; None: they come as they are.
        entries: which entries of the weights an end exchanges; None: all of them.
        staleness_weight: what an update counts, besides its weight, that was made from a model so many rounds old.
        heard: is told of each update that is in a sum for good.
    """

    def __init__(
        self,
        collect: Collect | Gather,
        ends: Ends,
        *,
        ask: Callable[[Message, str], None],
        receive: Callable[[float | None], Event],
        codec: Codec | None = None,
        entries: Callable[[str], Collection[str] | None] | None = None,
        staleness_weight: Callable[[int], float] = lambda staleness: 1.0,  # noqa: ARG005 - all the same
        heard: Callable[[Report], None] = lambda report: None,  # noqa: ARG005 - nobody listens
    ) -> None:
        self._ends = ends
        self._send = ask
        self._receive = receive
        self._codec = codec
        self._entries = entries
        self._collect = collect
        self._asynchronous = isinstance(collect, Gather)
        self._staleness_weight = staleness_weight
        self._heard = heard
        self._offers: dict[str, Offer] = {}
        self._told: dict[str, Report] = {}
        """What the offered and the added updates say."""
        self._streams: dict[str, Stream] = {}
        """Of updates that will be added next, begun ahead of time."""
        self._added: dict[str, Offer] = {}
        """What was added piece by piece: kept by its sender until the sum is complete."""
        self._unread: Counter[str] = Counter()
        self.now: float | None = None
        """Where there is a virtual clock: its time, in seconds, when the last update was added."""

    def begin(self, model: Message, members: Sequence[str]) -> None:
        """A round begins: `model`, with the number of the round, was sent to those of `members` who were free, or is to be sent.

        Members are in the order of the plan; where rounds are asynchronous everybody is one.
        """
        self._model = model
        self._asked = Asked.by(model)
        self._unread.clear()
        virtual = model.scalars.get(VIRTUAL_TIME)
        if virtual is not None:
            self.now = max(self.now or 0.0, float(virtual))
        if isinstance(self._collect, Gather):
            self._collect.begin()
        for end in members:
            if not self._asynchronous:
                self._ends.suppose(end, self._asked)
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
                self._close()
                return
            if isinstance(step, Short):
                reason = f"round {self._model.round}: {step.reason}"
                for offer in [*self._offers.values(), *self._added.values()]:
                    offer.refuse(f"round {self._model.round} is over")
                raise RoundFailed(reason, lost=step.lost)
            if isinstance(step, Fold):
                self._fold(step.end, total)
                continue
            if isinstance(step, Ask):
                self._ask_now(step.end)
                continue
            event = next_event(self._receive, step.until)
            if event is not None:
                self.note(event, total)

    def _close(self) -> None:
        for offer in self._added.values():
            offer.accept()
        for end in self._collect.folded:
            self._heard(self._told.pop(end))
        if isinstance(self._collect, Collect):
            for end, offer in self._offers.items():
                self._ends.turn_away(offer, end, self.missing.get(end, f"round {self._model.round} is over"))
            if self.now is not None and self._collect.dropped and self._collect.closes_at is not None:
                self.now = max(self.now, self._collect.closes_at)

    def note(self, event: Event, total: WeightedSum) -> None:
        """Take one event into account; `total` tells what updates have to look like."""
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
            self._send(self._model, end)

    def _ask_now(self, end: str) -> None:
        """Send the model of now to an end of an asynchronous aggregator."""
        model = self._model
        if self.now is not None:
            model = model.relabel(scalars={**model.scalars, VIRTUAL_TIME: self.now})
        if isinstance(self._collect, Gather):
            self._collect.asked(end)
        if self._ends.free(end):
            self._send(model, end)
        else:
            self._enter(end)

    def _note_answer(self, event: Arrived, total: WeightedSum) -> None:
        end, offer, header = event.end, event.offer, event.offer.header
        asked = self._ends.answers(end, header)
        current = asked is not None and (self._asynchronous or asked == self._asked) and self._collect.expects(end)
        if header.kind in (SKIP, AGAIN):
            offer.accept()
            if current:
                self._note_refusal(end, header.kind == AGAIN, str(header.scalars.get("reason")), bool(header.scalars.get("fault")))
        elif asked is None or not current:
            self._ends.turn_away(offer, end, self._why_not(end, header.round))
        else:
            self._note_update(event, asked, total)
        if not current and self._collect.expects(end):
            # It is done with an earlier model, if it was at one.
            self._ask(end)

    def _note_update(self, event: Arrived, asked: Asked, total: WeightedSum) -> None:
        end, offer, header = event.end, event.offer, event.offer.header
        encoded = None if self._codec is None else self._codec.specs(total.specs)
        own = None if self._entries is None else self._entries(end)
        reason = check_header(header, round=asked.round, total=total, encoded=encoded, entries=own)
        at, time = header.scalars.get(VIRTUAL_TIME), max(asked.at, event.at)
        if self.now is not None:
            time = at if isinstance(at, int | float) else math.nan
        if reason is None and not asked.at <= time < math.inf:
            reason = f"{VIRTUAL_TIME} {at!r} is not a time after {asked.at:g} s, when the model was sent"
        if reason is not None:
            self._reject(end, offer, reason)
            return
        self._offers[end] = offer
        seconds, samples = time - asked.at, int(header.scalars["samples"])
        self._told[end] = Report(end=end, round=asked.round, scalars=header.scalars, samples=samples, seconds=seconds)
        self._collect.offered(end, time)

    def _note_refusal(self, end: str, again: bool, reason: str, fault: bool) -> None:
        """`end` has no update of this round, or could not read the model."""
        self._unread[end] += again
        if again and self._unread[end] <= SENDINGS:
            self._ask(end)
        elif again:
            self._collect.lost(end, f"could not read the model: {reason}", "refused")
        else:
            self._collect.lost(end, reason, "refused" if fault or self._asynchronous else "lost")

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
        self._ends.turn_away(offer, end, told)
        self._collect.lost(end, told, "excluded" if end in self._ends.excluded else "refused")

    def _fold(self, end: str, total: WeightedSum) -> None:
        """Transfer one update, check it, add it."""
        if self._codec is None and not self._asynchronous and self._offers[end].header.nbytes > WHOLE_BYTES:
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
            groups: Mapping[str, Mapping[str, Tensor | Addend]] = message.groups
            reason = next(filter(None, map(check_values, message.groups.values())), None)
        else:
            groups = {WEIGHTS: self._codec.entries(message.groups)}
            reason = self._codec.check(message.groups, total.specs)
        if reason is not None:
            self._reject(end, offer, reason)
            return
        total.add(groups, message.scalars, factor=self._staleness_weight(self._model.round - self._told[end].round))
        offer.accept()
        message.release()
        self._count_in(end)

    def _count_in(self, end: str) -> None:
        self._ends.good(end)
        if self.now is not None:
            self.now = max(self.now, float(self._told[end].scalars[VIRTUAL_TIME]))
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
                self._count_in(end)
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
                    self._ends.turn_away(self._offers.pop(end), end, f"its transfer took longer than {patience:g} s")
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
