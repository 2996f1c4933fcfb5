"""The words of the roles: the kinds of messages that travel between them, and what each carries."""

from collections.abc import Mapping
from typing import Final

from transports.message import Scalar

MODEL: Final = "weights"
"""From an aggregator to its ends: the model of a round. Its ticket names the aggregator's start and its handing out."""

UPDATE: Final = "update"
"""The answer to a model: what became of it, under the ticket of that model."""

SKIP: Final = "skip"
"""The answer to a model by an end that has no update: `reason`, and `fault`, whether more than lost workers is behind it."""

AGAIN: Final = "again"
"""The answer to a model that could not be read: send it once more. `reason`."""

ASK: Final = "ask"
"""From a root to its coordinator: who takes part in this round?"""

ASSIGN: Final = "assign"
"""From the coordinator: `ends`, a JSON list of names; `reason`, where the list is empty because workers are missing."""

LOAD: Final = "load"
"""From a trainer to its coordinator: `samples`, how much it trains on."""

EXCLUDE: Final = "exclude"
"""From an aggregator to its coordinator: `end` gets no more models, `reason`."""

END: Final = "end"
"""The job is over for the receiver."""

TICKET: Final = "ticket"
"""The scalar that ties an answer to the model that it answers."""

PHASE: Final = "phase"
"""The scalar of a model that says what it is for: `TRAIN` where it is missing."""

TRAIN: Final = "train"
"""The model is to be trained."""

SURVEY: Final = "survey"
"""The ends are asked something about the model; nobody trains."""

VIRTUAL_TIME: Final = "virtual_time"
"""Where a virtual clock runs: seconds at which the model was sent, or at which the update came, by that clock."""


def ticket_of(scalars: Mapping[str, Scalar]) -> str | None:
    """The ticket that a message carries, None without one."""
    ticket = scalars.get(TICKET)
    return ticket if isinstance(ticket, str) else None
