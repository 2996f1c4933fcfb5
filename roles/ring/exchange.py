"""One attempt of a ring all-reduce at one member, over its channel."""

import time
from collections.abc import Callable, Sequence

from roles.ring.circle import Circle
from roles.ring.kinds import PIECE
from roles.ring.lead import Broken, members_of
from roles.ring.reduction import Part, Reduction
from roles.rounds.average import WeightedSum
from transports.base import Offer
from transports.errors import PeerLost, ProtocolError
from transports.message import Message

CHUNK = 4 * 2**20
"""Bytes of a piece, a multiple of `ALIGNMENT`."""


class Exchange:
    """Sends pieces to the next member and takes those of the one before, each piece as soon as it can be.

    All send at once and nobody waits for an answer, so that no circle of waiting can arise; what has been sent and not been
    taken yet is a segment at most.

    Args:
        circle: the channel.
        total: with this member's own update added; the sum of all once the attempt is complete.
        order: the members.
        number: of the attempt.
        round: for the record.
        over: whether the attempt has become pointless.
    """

    def __init__(
        self,
        circle: Circle,
        total: WeightedSum,
        order: Sequence[str],
        *,
        number: int,
        round: int,
        over: Callable[[], bool],
    ) -> None:
        self._circle = circle
        self._number = number
        self._round = round
        self._before, self._after, position = members_of(order, circle.me)
        self._alone = len(order) == 1
        self._reduction = Reduction(total, len(order), position, CHUNK)
        self._over = over
        self.sent = 0
        """Bytes of pieces that were sent."""

    def run(self) -> Broken | None:
        """Take part to the end. None: the sum is there, or the attempt is `over`; else what it broke by."""
        if self._alone:
            return None
        broken = self._reach()
        if broken is None and not self._over():
            for part in self._reduction.first():
                self._send(part)
        while broken is None and not self._reduction.complete and not self._over():
            broken = self._gone()
            offer = None if broken is not None else self._circle.next_piece(self._before, self._number)
            if offer is not None:
                broken = self._take(offer)
            elif broken is None:
                self._circle.pump(None)
        return broken

    @property
    def complete(self) -> bool:
        """Whether the sum is there."""
        return self._alone or self._reduction.complete

    def _reach(self) -> Broken | None:
        """Wait until both neighbours are connected."""
        until = time.monotonic() + self._circle.rejoin_timeout
        while not self._over():
            away = [end for end in (self._before, self._after) if end not in self._circle.present]
            if not away:
                return None
            if not self._circle.pump(until):
                return Broken(self._number, away[0], "unreachable", f"not connected within {self._circle.rejoin_timeout:g} s")
        return None

    def _gone(self) -> Broken | None:
        gone = next((end for end in (self._before, self._after) if end not in self._circle.present), None)
        return None if gone is None else Broken(self._number, gone, "left", "its connection broke")

    def _send(self, part: Part) -> None:
        scalars = {"number": self._number, "step": part.step, "index": part.index}
        data = self._reduction.view(part)
        self._circle.channel.send(Message(PIECE, self._round, scalars=scalars, groups={PIECE: {PIECE: data}}), [self._after])
        self.sent += part.span.nbytes

    def _take(self, offer: Offer) -> Broken | None:
        step, index = int(offer.header.scalars["step"]), int(offer.header.scalars["index"])
        if self._reduction.has(step, index):
            offer.refuse("this piece has come before")
            return None
        if not self._reduction.expects(step, index, offer.header.nbytes):
            offer.refuse("this piece is not expected")
            return Broken(self._number, self._before, "corrupt", f"piece {index} of step {step} is not expected")
        try:
            message = offer.fetch(self._circle.rejoin_timeout)
        except PeerLost as error:
            return Broken(self._number, self._before, "left", error.reason)
        except ProtocolError as error:
            offer.refuse(str(error))
            return Broken(self._number, self._before, "corrupt", str(error))
        following = self._reduction.take(step, index, message.groups[PIECE][PIECE])
        offer.accept()
        message.release()
        if following is not None:
            self._send(following)
        return None
