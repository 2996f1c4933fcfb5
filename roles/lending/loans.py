"""An aggregator of an asynchronous job and its coordinator: borrows trainers and gives them back."""

from typing_extensions import override

from roles.kinds import BORROW
from roles.lending.gather import LentGather
from roles.lending.watch import Watch
from roles.lending.words import Request, numbers_of
from roles.upward import ends_of
from transports.base import Channel
from transports.message import Header, Message


class Loans(Watch):
    """The trainers that an aggregator has borrowed."""

    def __init__(self, channel: Channel, timeout: float) -> None:
        super().__init__(channel, timeout)
        self._gather: LentGather | None = None
        self._round = 0
        self._open = False
        self._held: dict[str, str] = {}
        """Trainer -> number of the loan."""
        self._newest: dict[str, str] = {}
        """Trainer -> number of its last loan, even where that was given back."""
        self._replaced: list[str] = []
        """Loans of trainers that were lent anew before they were given back."""
        self._count = 0
        self._said: tuple[int, tuple[str, ...], tuple[str, ...]] | None = None
        """The last request, without what changes in each."""

    def attach(self, gather: LentGather) -> LentGather:
        """`gather` is what trainers are borrowed for."""
        self._gather = gather
        return gather

    @override
    def begin(self, round: int) -> None:
        # Trainers are wanted.
        self._round, self._open = round, True

    @override
    def end(self) -> None:
        # None is wanted, and those who were not asked yet go back.
        self._open = False
        if self._gather is not None:
            self._gather.release()
        self.settle()

    @override
    def settle(self) -> None:
        if self._over or not self._presence.present:
            return  # whoever comes back is told everything
        gather = self._gather
        done = [trainer for trainer in self._held if gather is None or not gather.holds(trainer)]
        numbers = (*self._replaced, *(self._held.pop(trainer) for trainer in done))
        self._replaced.clear()
        room, useless = (gather.room, gather.useless) if gather is not None and self._open else (0, ())
        said = (room, useless, () if gather is None else gather.taken)
        if not numbers and said == self._said:
            return
        if gather is not None:
            gather.starve("")
        self._said = said
        self._count += 1
        request = Request(number=self._count, room=room, without=useless, taken=said[2], done=numbers, held=self._held)
        self.channel.send(Message(kind=BORROW, round=self._round, scalars=request.scalars()), sorted(self._presence.present))

    @override
    def greet(self) -> None:
        self._said = None
        self.settle()

    @override
    def assigned(self, header: Header) -> None:
        trainers = ends_of(header.scalars)
        if not trainers:
            if self._gather is not None and header.scalars.get("number") == self._count:
                self._gather.starve(str(header.scalars.get("reason")), final=bool(header.scalars.get("final")))
            return
        for trainer, number in zip(trainers, numbers_of(header.scalars), strict=True):
            if self._newest.get(trainer) == number:
                continue  # it is said twice
            self._replaced += [self._held[trainer]] if trainer in self._held else []
            self._held[trainer] = self._newest[trainer] = number
            if self._gather is not None and self._open:
                self._gather.lend(trainer)
        self.settle()

    @override
    def stop(self) -> None:
        if self._gather is not None:
            self._gather.stop("the job is over")
