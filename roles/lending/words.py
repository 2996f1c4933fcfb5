"""What aggregators and the coordinator of an asynchronous job say to each other, as scalars of messages."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from roles.errors import UnexpectedMessage
from roles.lending.book import Loan
from transports.message import Scalar


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What an aggregator says of itself; the newest one counts."""

    number: int
    """Counts its requests, from 1."""
    room: int
    """How many trainers it wants to have at a time, those that it has included; 0 between its rounds."""
    without: tuple[str, ...] = ()
    """Trainers that it has no use for at the moment."""
    taken: tuple[str, ...] = ()
    """Trainers whose updates are in its sum, which it makes or has handed up; nobody where one may count several times."""
    done: tuple[str, ...] = ()
    """The numbers of the loans that it gives back."""
    held: Mapping[str, str]
    """Trainer -> number of the loan, of all that it has."""

    def scalars(self) -> dict[str, Scalar]:
        """As a message carries it."""
        lists = {"without": self.without, "taken": self.taken, "done": self.done}
        texts = {**{name: list(names) for name, names in lists.items()}, "held": dict(self.held)}
        return {"number": self.number, "room": self.room, **{name: json.dumps(value) for name, value in texts.items()}}

    @classmethod
    def read(cls, scalars: Mapping[str, Scalar]) -> "Request":
        """From what a message carries.

        Raises:
            UnexpectedMessage: it carries something else.
        """
        number, room = scalars.get("number"), scalars.get("room")
        without, taken, done, held = (_parsed(scalars.get(name)) for name in ("without", "taken", "done", "held"))
        texts = all(map(_are_texts, (without, taken, done))) and isinstance(held, dict) and _are_texts(list(held.values()))
        if not (isinstance(number, int) and isinstance(room, int) and room >= 0 and texts):
            raise UnexpectedMessage(f"a request for trainers that holds {dict(scalars)!r}")
        return cls(number=number, room=room, without=tuple(without), taken=tuple(taken), done=tuple(done), held=held)


def grant(loans: Sequence[Loan]) -> dict[str, Scalar]:
    """What an assignment says with the names of the trainers: the number of each one's loan."""
    return {"loans": json.dumps([loan.number for loan in loans])}


def numbers_of(scalars: Mapping[str, Scalar]) -> tuple[str, ...]:
    """The numbers of the loans of an assignment.

    Raises:
        UnexpectedMessage: it carries something else.
    """
    numbers = _parsed(scalars.get("loans"))
    if not _are_texts(numbers):
        raise UnexpectedMessage(f"an assignment whose loans are {scalars.get('loans')!r}")
    return tuple(numbers)


def nobody(number: int, *, final: bool = False) -> dict[str, Scalar]:
    """What an assignment without trainers says: nobody is to be expected for the request of that number, for now or at all."""
    reason = "every other trainer is gone, has its update in another aggregator's sum, or is with one that is between its rounds"
    return {"number": number, "reason": reason, "final": final}


def losses(number: int, ends: Sequence[str]) -> dict[str, Scalar]:
    """What a root says of aggregators that it has lost, and that its open round has no sum of; the newest such word counts."""
    return {"number": number, "ends": json.dumps(list(ends))}


def heard(scalars: Mapping[str, Scalar]) -> dict[str, Scalar]:
    """What the coordinator answers to that."""
    return {"number": scalars.get("number", 0)}


def _parsed(value: Scalar | None) -> Any:
    try:
        return json.loads(value) if isinstance(value, str) else None
    except ValueError:
        return None


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(each, str) for each in value)
