"""The built-in roles with the points of `chaos_points`."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from chaos_points import pass_point  # type: ignore[import-not-found]

from roles import Aggregator, Coordinator, Trainer, kinds
from roles.context import Context
from roles.ring.kinds import PIECE
from roles.role import Role
from transports.base import Arrived, Channel, ChannelSpec, Delivery, Endpoint, Event
from transports.message import Message

SENT = {kinds.MODEL: "distributing", kinds.UPDATE: "uploading", kinds.ASSIGN: "telling", PIECE: "reducing"}
RECEIVED = {kinds.MODEL: "receiving", kinds.UPDATE: "aggregating", kinds.ASK: "assigning"}


class PointedReporter:
    """Notices the time between two rounds."""

    def __init__(self, reporter: Any, worker: str) -> None:
        self._reporter = reporter
        self._worker = worker
        self._round = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reporter, name)

    def entered(self, round: int) -> None:
        """The worker enters a round; the one before is over."""
        if 0 < self._round < round:
            pass_point(self._worker, "between", self._round)
        self._round = round
        self._reporter.entered(round)


def _pointed(endpoint: Endpoint, worker: str) -> None:
    """Let an endpoint pass the points of what comes and goes."""
    open_, receive = endpoint.open, endpoint.receive

    def opened(spec: ChannelSpec) -> Channel:
        channel = open_(spec)
        send = channel.send

        def sent(message: Message, to: Iterable[str]) -> Delivery:
            delivery = send(message, to)
            if (point := SENT.get(message.kind)) is not None:
                pass_point(worker, point, message.round)
            return delivery

        channel.send = sent  # type: ignore[method-assign]
        return channel

    def received(channels: Sequence[Channel], timeout: float | None = None) -> Event:
        event = receive(channels, timeout)
        if isinstance(event, Arrived) and (point := RECEIVED.get(event.offer.header.kind)) is not None:
            pass_point(worker, point, event.offer.header.round)
        return event

    endpoint.open, endpoint.receive = opened, received  # type: ignore[method-assign]


class Pointed(Role):
    """A role that passes the points; mixed into the built-in ones."""

    def __init__(self, context: Context) -> None:
        pass_point(context.name, "assembling")
        _pointed(context.endpoint, context.name)
        super().__init__(replace(context, reporter=PointedReporter(context.reporter, context.name)))

    def run(self) -> None:
        super().run()  # type: ignore[safe-super]
        pass_point(self.context.name, "ending")

    def join(self) -> None:
        pass_point(self.context.name, "joining")
        super().join()


class ChaosTrainer(Pointed, Trainer):
    """The built-in trainer with points."""

    def train(self, task: Any) -> Any:
        pass_point(self.context.name, "training", task.round)
        return super().train(task)


class ChaosAggregator(Pointed, Aggregator):
    """The built-in aggregator with points."""


class ChaosCoordinator(Pointed, Coordinator):
    """The built-in coordinator with points."""
