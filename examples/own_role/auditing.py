"""Two roles of one's own: a trainer that reports after each upload, and an auditor that collects the reports."""

import json

from roles import Role, Trainer, function
from transports.base import Arrived, Channel, Left
from transports.message import Message


class ReportingTrainer(Trainer):
    """A trainer that says how far its weights moved."""

    def train(self, task):
        update = super().train(task)
        moved = sum(
            float((update.groups["weights"][name] - before).square().sum())
            for name, before in task.model.groups["weights"].items()
            if before.is_floating_point()
        )
        self.report_of_round = {"round": task.round, "moved": moved**0.5}
        return update

    @function("report", after="upload")
    def report(self, channel: Channel) -> None:
        """Runs by itself after each upload, because the schema binds `report` to a channel."""
        channel.send(Message("report", self.report_of_round["round"], scalars=self.report_of_round), channel.spec.ends)


class Auditor(Role):
    """Collects reports until every trainer has left, and keeps them as metrics."""

    @function("collect")
    def collect(self, channel: Channel) -> dict[str, list[float]]:
        """All reports by trainer."""
        collected: dict[str, list[float]] = {end: [] for end in channel.spec.ends}
        gone: set[str] = set()
        while gone != set(channel.spec.ends):
            event = channel.receive()
            if isinstance(event, Left):
                gone.add(event.end)
            elif isinstance(event, Arrived):
                message = event.offer.take()
                collected[message.sender].append(float(message.scalars["moved"]))
                self.context.reporter.metrics(message.round, {f"moved/{message.sender}": float(message.scalars["moved"])})
        return collected

    def run(self) -> None:
        """Join, then collect until the end."""
        self.join()
        print(json.dumps(self.perform("collect"), indent=2))
