"""The root of an asynchronous job and its coordinator: says which aggregators are lost."""

from typing_extensions import override

from roles.kinds import LOST
from roles.lending.gather import LendersGather
from roles.lending.watch import Watch
from roles.lending.words import losses
from transports.base import Channel
from transports.message import Header, Message


class Losses(Watch):
    """Tells the coordinator whose sums are not to be expected any more: nobody is to be locked for them."""

    def __init__(self, channel: Channel, timeout: float) -> None:
        super().__init__(channel, timeout)
        self._gather: LendersGather | None = None
        self._count = 0
        self._round = 0
        self._said: tuple[str, ...] | None = ()

    def attach(self, gather: LendersGather) -> LendersGather:
        """`gather` is that of the aggregators below."""
        self._gather = gather
        return gather

    @override
    def begin(self, round: int) -> None:
        self._round = round

    @override
    def settle(self) -> None:
        if self._over or self._gather is None or not self._presence.present:
            return  # whoever comes back is told
        lost = self._gather.lost_without_sum
        if lost == self._said:
            return
        self._said = lost
        self._count += 1
        self.channel.send(Message(kind=LOST, round=self._round, scalars=losses(self._count, lost)), sorted(self._presence.present))

    @override
    def greet(self) -> None:
        # Nothing was said: nothing is to be said again.
        self._said = () if self._count == 0 else None
        self.settle()

    @override
    def assigned(self, header: Header) -> None:
        if self._gather is not None and header.scalars.get("number") == self._count:
            self._gather.relieve(self._said or ())
