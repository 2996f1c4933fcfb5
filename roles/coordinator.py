"""The coordinator: maps trainers to middle aggregators, round by round. It counts no rounds of its own."""

import json
from collections.abc import Mapping, Sequence

from roles.assign import assign
from roles.context import Context
from roles.errors import UnexpectedMessage
from roles.role import END, Role, lost
from roles.tags import function
from transports.base import Arrived, Channel, Left
from transports.message import Message

ASK, ASSIGN, LOAD = "ask", "assign", "load"
TOP, MIDDLE, TRAINER = "coordinateWithTopAgg", "coordinateWithMidAgg", "coordinateWithTrainer"


class Coordinator(Role):
    """Answers the root's question "who takes part in round r" and tells everyone concerned.

    Each trainer is mapped to one middle aggregator that shares its group on a channel between the two, by the
    policy `job.coordinate.policy`. A middle aggregator without trainers is told so and sits the round out.
    """

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._loads: dict[str, float] = {}

    def run(self) -> None:
        """Serve the root until it says that the job is over, then pass that on."""
        self.join()
        channels = [self.channel(tag) for tag in (TOP, MIDDLE, TRAINER)]
        while True:
            event = self.context.endpoint.receive(channels)
            if isinstance(event, Left) and not event.clean:
                raise lost(event.end, event.reason)
            if not isinstance(event, Arrived):
                continue
            message = event.offer.take()
            if message.kind == LOAD:
                self._loads[message.sender] = float(message.scalars["samples"])
            elif message.kind == END:
                break
            elif message.kind == ASK:
                self.coordinate_round(message.round, message.sender)
            else:
                raise UnexpectedMessage(f"{message.sender} sent {message.kind!r} to the coordinator")
        self.farewell([self.channel(MIDDLE), self.channel(TRAINER)])

    def coordinate_round(self, round: int, root: str) -> None:
        """Map the trainers that are there and tell trainers, middle aggregators and the root, in this order."""
        self.context.reporter.entered(round)
        self.await_loads()
        mapping = self.assignment(round)
        trainers, middles = self.channel(TRAINER), self.channel(MIDDLE)
        served = {middle: [trainer for trainer, of in mapping.items() if of == middle] for middle in middles.spec.ends}
        self.perform(TRAINER, round, {trainer: [mapping[trainer]] if trainer in mapping else [] for trainer in _there(trainers)})
        self.perform(MIDDLE, round, {middle: served[middle] for middle in _there(middles)})
        self.perform(TOP, round, {root: [middle for middle in middles.spec.ends if served[middle]]})

    def assignment(self, round: int) -> dict[str, str]:
        """Trainer -> middle aggregator. Override for a policy of your own."""
        middles = _there(self.channel(MIDDLE))
        peers = self.context.peers
        candidates = {
            trainer: [middle for middle in middles if _meet(peers[trainer].groups, peers[middle].groups)]
            for trainer in _there(self.channel(TRAINER))
        }
        settings = self.context.settings
        return assign(settings.coordinate, candidates, loads=self._loads, seed=settings.seed, round=round)

    def await_loads(self) -> None:
        """Wait until each trainer that is there has said how much data it has."""
        channel = self.channel(TRAINER)
        timeout = self.context.settings.quorum.join_timeout
        while not set(_there(channel)) <= self._loads.keys():
            event = channel.receive(timeout)
            if isinstance(event, Left) and not event.clean:
                raise lost(event.end, event.reason)
            if isinstance(event, Arrived):
                message = event.offer.take()
                if message.kind != LOAD:
                    raise UnexpectedMessage(f"{message.sender} sent {message.kind!r} before its load")
                self._loads[message.sender] = float(message.scalars["samples"])

    @function(TOP)
    def tell_top(self, channel: Channel, round: int, ends: Mapping[str, Sequence[str]]) -> None:
        """Tell the root which middle aggregators take part."""
        _tell(channel, round, ends)

    @function(MIDDLE)
    def tell_middles(self, channel: Channel, round: int, ends: Mapping[str, Sequence[str]]) -> None:
        """Tell each middle aggregator its trainers."""
        _tell(channel, round, ends)

    @function(TRAINER)
    def tell_trainers(self, channel: Channel, round: int, ends: Mapping[str, Sequence[str]]) -> None:
        """Tell each trainer its middle aggregator."""
        _tell(channel, round, ends)


def _tell(channel: Channel, round: int, ends: Mapping[str, Sequence[str]]) -> None:
    for end, others in ends.items():
        channel.send(Message(kind=ASSIGN, round=round, scalars={"ends": json.dumps(list(others))}), [end])


def _there(channel: Channel) -> list[str]:
    """The ends connected now, in the order of the plan."""
    joined = channel.joined
    return [end for end in channel.spec.ends if end in joined]


def _meet(one: Mapping[str, str], other: Mapping[str, str]) -> bool:
    """Whether two workers are in the same group of some channel."""
    return any(other.get(channel) == label for channel, label in one.items())
