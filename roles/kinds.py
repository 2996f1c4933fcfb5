"""The words of the roles: the kinds of messages that travel between them, and what each carries."""

from collections.abc import Mapping
from typing import Final

from transports.message import Scalar

MODEL: Final = "weights"
"""From an aggregator to its ends: the model of a round. Its ticket names the aggregator's start and its handing out."""

UPDATE: Final = "update"
"""The answer to a model: what became of it, under the ticket of that model."""

SKIP: Final = "skip"
"""The answer to a model by an end that has no update: `reason`; `fault`, whether more than lost workers is behind it; `starved`,
whether nobody could be lent to it, which is no loss."""

COVERED: Final = "covered"
"""The answer to a model by an end whose update is in that of another one: `by`, the other end."""

AGAIN: Final = "again"
"""The answer to a model that could not be read: send it once more. `reason`."""

ASK: Final = "ask"
"""From a root to its coordinator: who takes part in this round?"""

ASSIGN: Final = "assign"
"""From the coordinator: `ends`, a JSON list of names; `reason`, where the list is empty because workers are missing; `parent`,
the name of the aggregator above, for one that could have several. In an asynchronous job `ends` are lent under the numbers
`loans`; without ends, nobody is to be expected for the request `number`."""

BORROW: Final = "borrow"
"""From an aggregator of an asynchronous job to its coordinator: how many trainers it wants, and which ones it gives back; see
`roles.lending.words`."""

LOST: Final = "lost"
"""From the root of an asynchronous job to its coordinator: it has lost the aggregators `ends`, a JSON list of names, and has no
sum of them in its open round. It is answered with an assignment without ends of the same `number`."""

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

TURN: Final = "turn"
"""The scalar of a model that says which update of its receiver in the same round is wanted, where that is not the first (0)."""

VIRTUAL_TIME: Final = "virtual_time"
"""Where a virtual clock runs: seconds at which the model was sent, or at which the update came, by that clock."""


def ticket_of(scalars: Mapping[str, Scalar]) -> str | None:
    """The ticket that a message carries, None without one."""
    ticket = scalars.get(TICKET)
    return ticket if isinstance(ticket, str) else None
