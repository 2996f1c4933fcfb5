"""What comes in of the updates of an aggregator: transferred, checked, and added to a sum, one after the other."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from torch import Tensor

from roles.codecs.codec import Codec
from roles.kinds import VIRTUAL_TIME
from roles.part import Report
from roles.rounds.average import WEIGHTS, Addend, WeightedSum
from roles.rounds.check import check_values
from roles.rounds.collect import Collect
from roles.rounds.ends import Ends
from roles.rounds.gather import Gather
from roles.rounds.pieces import Adding
from transports.base import END_OF_STREAM, Offer, Stream
from transports.errors import PeerLost, ProtocolError, WaitTimeout
from transports.message import Message

T = TypeVar("T")
PREFETCHED = 1
"""Updates whose transfer may run while another one is added: the bound on what is in flight."""
WHOLE_BYTES = 8 * 2**20
"""Where the sum is up to this size, updates are held whole while they are checked; for larger sums, added piece by piece."""


class Intake:
    """The updates that were offered, and their way into the sum.

    Args:
        collect: is told what becomes of each.
        ends: what is known of all ends.
        codec: of the updates; None: they come as they are.
        staleness_weight: what an update counts, besides its weight, that was made from a model so many rounds old.
        heard: is told of each update that is in a sum for good.
    """

    def __init__(
        self,
        collect: Collect | Gather,
        ends: Ends,
        *,
        codec: Codec | None,
        staleness_weight: Callable[[int], float],
        heard: Callable[[Report], None],
    ) -> None:
        self._collect = collect
        self._ends = ends
        self._codec = codec
        self._staleness_weight = staleness_weight
        self._heard = heard
        self._asynchronous = isinstance(collect, Gather)
        self._round = 0
        self._offers: dict[str, Offer] = {}
        self._told: dict[str, Report] = {}
        """What the offered and the added updates say."""
        self._streams: dict[str, Stream] = {}
        """Of updates that will be added next, begun ahead of time."""
        self._added: dict[str, Offer] = {}
        """What was added piece by piece: kept by its sender until the sum is complete."""
        self.now: float | None = None
        """Where there is a virtual clock: its time, in seconds, when the last update was added."""

    def begin(self, model: Message) -> None:
        """A round begins with `model`."""
        self._round = model.round
        virtual = model.scalars.get(VIRTUAL_TIME)
        if virtual is not None:
            self.now = max(self.now or 0.0, float(virtual))

    def offered(self, end: str, offer: Offer, report: Report, at: float) -> None:
        """`end` has an update ready that passed the checks so far, since `at` of the clock that the job runs by."""
        self._offers[end] = offer
        self._told[end] = report
        self._collect.offered(end, at)

    def lose(self, end: str) -> None:
        """What `end` offered is lost with its connection."""
        self._offers.pop(end, None)
        self._streams.pop(end, None)

    def give_up(self) -> None:
        """The round fell short. What came to an asynchronous aggregator may count in its next round."""
        for offer in [] if self._asynchronous else [*self._offers.values(), *self._added.values()]:
            offer.refuse(f"round {self._round} is over")

    def close(self, members: Sequence[str]) -> None:
        """The sum is complete; `members`: of the round, in the order of the plan."""
        if isinstance(self._collect, Gather):
            return
        for offer in self._added.values():
            offer.accept()
        for end in members:
            if end in self._collect.folded:
                self._heard(self._told.pop(end))
        for end, offer in self._offers.items():
            self._ends.turn_away(offer, end, self._collect.missing.get(end, f"round {self._round} is over"))
        if self.now is not None and self._collect.dropped and self._collect.closes_at is not None:
            self.now = max(self.now, self._collect.closes_at)

    def reject(self, end: str, offer: Offer, reason: str) -> None:
        """Refuse an update for what is in it: its sender is out of this round."""
        told = self._ends.bad(end, reason)
        self._ends.turn_away(offer, end, told)
        self._collect.lost(end, told, "excluded" if end in self._ends.excluded else "refused")

    def fold(self, end: str, total: WeightedSum) -> None:
        """Transfer one update, check it, add it; or tell the state machine why not."""
        # By the size of the sum: all updates of a round go the same way, else a sum could not be made anew.
        pieces = self._codec is None and not self._asynchronous and not total.whole
        if pieces and total.memory.nbytes > WHOLE_BYTES:
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
            self.reject(end, offer, reason)
            return
        total.add(groups, message.scalars, factor=self._staleness_weight(self._round - self._told[end].round))
        offer.accept()
        message.release()
        self._count_in(end)

    def _count_in(self, end: str) -> None:
        self._ends.good(end)
        if self.now is not None:
            self.now = max(self.now, float(self._told[end].scalars[VIRTUAL_TIME]))
        self._collect.done(end)
        if self._asynchronous:
            self._heard(self._told.pop(end))

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
                self.reject(end, self._offers.pop(end), reason)
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
        patience = None if self._collect.closes_at is None else self._collect.patience
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
                self.reject(end, self._offers.pop(end), str(error))
                return None
