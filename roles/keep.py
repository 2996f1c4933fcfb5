"""What a worker remembers from round to round, kept so that any round can be done again to the same bits.

Whatever has `state_dict` and `load_state_dict` is registered under a name: optimizers, what a callback remembers, the
memory of a codec. Before a round its state is taken back to what it was after the worker's last round before, and it is
stored under the round before the update of the round is sent. So the state that fits the root's checkpoint is there
whatever dies when.
"""

import copy
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from roles import seals
from roles import state as states
from roles.context import Context
from roles.errors import StateLost

log = logging.getLogger(__name__)


class Stateful(Protocol):
    """Something that a worker remembers."""

    def state_dict(self) -> Mapping[str, Any]:
        """What is to be remembered: tensors, numbers, texts, and containers of them."""

    def load_state_dict(self, state: Any) -> None:
        """Take back what `state_dict` gave."""


class WorkerState:
    """The registered parts of one worker and their states of the last rounds.

    They lie in `state_folder` of the context; without one, or where the job writes no checkpoints
    (`checkpoint.every` is 0), in memory. Nothing is stored where nothing is registered.
    """

    def __init__(self, context: Context) -> None:
        self._name = context.name
        self._every = max(1, context.settings.checkpoint.every)
        self._folder = context.state_folder if context.settings.checkpoint.every else None
        self._resume = context.resume
        self._parts: dict[str, Stateful] = {}
        self._memory: dict[int, dict[str, Any]] = {}
        self._begun = False
        self._onwards = context.strategy.traits.asynchronous
        """Whether models of earlier rounds come in between, from an aggregator that is behind others: no round is done again."""
        self._newest = 0
        self._now: int | None = None
        """The round whose end the parts are at; None while they are inside a round, or not known."""
        self._proven = False

    def register(self, name: str, part: Stateful) -> None:
        """Keep the state of `part` from now on.

        Raises:
            ValueError: the name is taken.
        """
        if name in self._parts:
            raise ValueError(f"{name!r} is registered already")
        self._parts[name] = part

    def enter(self, round: int) -> None:
        """Bring the parts to where they were after the last round before `round`; call it before the round is reported.

        Raises:
            StateLost: the worker has taken part before, and that state is gone.
        """
        if not self._parts:
            return
        if not self._begun:
            self._begin(round)
        if self._onwards and round < self._newest:
            return
        self._newest = round
        kept = self._rounds()
        before = max((each for each in kept if each < round), default=None)
        if before is None:
            raise StateLost(self._lost(round))
        if before != self._now:
            if 0 < round - 1 < self._floor():  # further back than any root should go
                raise StateLost(self._lost(round))
            self._load(before, round)
        self._now = None

    def save(self, round: int) -> None:
        """Store the state of the parts under `round`; call it before the update of the round is sent.

        What nobody can ask for any more is dropped. The newest checkpoint of the root may be in the making, the one before it
        torn, which leaves the third; and this round may be asked for once more.
        """
        if not self._parts:
            return
        if self._onwards:
            round = max(round, self._newest)
        newest = (round - 1) // self._every * self._every
        bounds = [max(0, newest - count * self._every) for count in (2, 1, 0)]
        self._store(round, bounds[0])
        kept = [each for each in self._rounds() if each <= round]
        self._drop({0, *(max((each for each in kept if each <= bound), default=0) for bound in (*bounds, round - 1, round))})

    def _begin(self, round: int) -> None:
        """Note the state before the first round, unless the worker goes on from what it has stored."""
        self._begun = True
        if not self._resume or (round == 1 and 0 not in self._rounds()):
            self._drop(set())
            self._store(0, 0)

    def _rounds(self) -> list[int]:
        return sorted(self._memory) if self._folder is None else list(seals.round_files(self._folder))

    def _floor(self) -> int:
        """Up to which round states were dropped, as far as the files tell."""
        newest = max(self._memory, default=0) if self._folder is None else seals.newest_whole(self._folder).round
        return int(self._read(newest)["floor"]) if newest else 0

    def _store(self, round: int, floor: int) -> None:
        parts = {name: part.state_dict() for name, part in self._parts.items()}
        content = {"worker": self._name, "round": round, "floor": floor, "parts": parts}
        if self._folder is None:
            self._memory[round] = copy.deepcopy(content)
        else:
            states.save_sealed(content, self._path(round), prove=not self._proven)
            self._proven = True
        self._now = round

    def _read(self, kept: int) -> dict[str, Any]:
        if self._folder is None:
            return copy.deepcopy(self._memory[kept])
        content: dict[str, Any] = states.load_whole(self._path(kept))
        return content

    def _load(self, before: int, round: int) -> None:
        reason = None if self._folder is None else seals.broken(self._path(before))
        if reason is not None:
            raise StateLost(f"{self._path(before)}: {reason}. {self._advice(round)}")
        parts = self._read(before)["parts"]
        for name, part in self._parts.items():
            if name not in parts:
                where = "" if self._folder is None else f"{self._path(before)}: "
                raise StateLost(f"{where}there is no state of {name!r}, only of {sorted(parts)}. {self._advice(round)}")
            part.load_state_dict(parts[name])
        log.info("%s goes on from its state after round %d", self._name, before)

    def _drop(self, wanted: set[int]) -> None:
        for round in set(self._rounds()) - wanted:
            if self._folder is None:
                del self._memory[round]
            else:
                self._path(round).unlink(missing_ok=True)

    def _path(self, round: int) -> Path:
        return seals.round_file(self._folder or Path(), round)

    def _lost(self, round: int) -> str:
        if self._folder is None:
            return f"{self._name} has no state to do round {round} with: the job keeps none (checkpoint.every=0)"
        return f"{self._path(round - 1)} is missing, and so is what stands for it. {self._advice(round)}"

    def _advice(self, round: int) -> str:
        return (
            f"{self._name} needs the state that it had before round {round} (of: {', '.join(self._parts)}). Put the folder back, "
            "or start a new run from the last model (job.baseModel.path)"
        )
