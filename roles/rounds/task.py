"""One round of an aggregator, as it is handed from step to step."""

from dataclasses import dataclass

from roles.kinds import PHASE, TRAIN
from transports.message import Message


@dataclass(frozen=True, slots=True)
class Task:
    """The model to hand down and the ends that take part, in the order of the plan."""

    round: int
    model: Message
    """In the module's types."""
    ends: tuple[str, ...]
    parent: str | None = None
    """Whom the sum goes to; None at a root."""
    ticket: str | None = None
    """What ties the sum to the model from above."""
    needed: int | None = None
    """The round closes with the first so many updates; None: as the policy says."""
    limit: float | None = None
    """Seconds after which the round closes with what has come; None: as the policy says."""

    @property
    def phase(self) -> str:
        """What the model is for."""
        return str(self.model.scalars.get(PHASE, TRAIN))
