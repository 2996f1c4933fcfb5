"""What a root has in its folder: the newest checkpoints, the best model, the last one.

`round-00007.pt` is a checkpoint (see `roles.seals`), `best-00005.pt` the model that was the best from round 5 on, as long as a
checkpoint needs it, `best.pt` another name of the newest of them, `last.pt` the model at the end. Every file is there whole or
not at all.
"""

import logging
import re
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

from torch import Tensor

from roles import seals
from roles import state as states
from roles.errors import BadModel

log = logging.getLogger(__name__)
_BEST = re.compile(r"best-(\d+)\.pt")


class Checkpoints:
    """The files of one root.

    Args:
        folder: where they lie; None stores nothing.
        keep: how many checkpoints stay.
    """

    def __init__(self, folder: Path | None, keep: int) -> None:
        self._folder = folder
        self._keep = keep
        self._proven = False

    @property
    def stored(self) -> bool:
        """Whether anything is stored."""
        return self._folder is not None

    def save(self, round: int, content: Mapping[str, Any]) -> None:
        """Write the checkpoint of `round`, and drop all but the newest."""
        if self._folder is None:
            return
        states.save_sealed(dict(content), seals.round_file(self._folder, round), prove=not self._proven)
        self._proven = True
        for old in list(seals.round_files(self._folder).values())[: -self._keep]:
            old.unlink()
        self._drop_bests()

    def newest(self) -> tuple[Path, dict[str, Any]] | None:
        """The newest whole checkpoint, None if there is none; what is newer and not whole is removed, with a warning.

        Raises:
            BadModel: it is whole, and yet this version of torch does not read it.
        """
        if self._folder is None:
            return None
        found = seals.newest_whole(self._folder)
        for torn in found.torn:
            log.warning("passing over the checkpoint %s", torn)
        for round, path in seals.round_files(self._folder).items():
            if round > found.round:
                path.unlink()
        return None if found.path is None else (found.path, states.load_whole(found.path))

    def save_best(self, round: int, state: Mapping[str, Tensor]) -> str | None:
        """Store the best model so far, that of `round`; returns the path of `best.pt`."""
        if self._folder is None:
            return None
        states.save_atomically(dict(state), self._best(round))
        states.link_atomically(self._best(round), self._folder / "best.pt")
        self._drop_bests()
        return str(self._folder / "best.pt")

    def restore_best(self, round: int | None) -> str | None:
        """Let the best model be that of `round` again (None: there is none yet), whatever came after; returns its path."""
        if self._folder is None:
            return None
        for later, path in self._bests().items():
            if round is None or later > round:
                path.unlink()
        if round is None:
            (self._folder / "best.pt").unlink(missing_ok=True)
            return None
        if not self._best(round).is_file():
            raise BadModel(f"{self._best(round)} is missing: the checkpoint says that the model of round {round} was the best")
        states.link_atomically(self._best(round), self._folder / "best.pt")
        return str(self._folder / "best.pt")

    def save_last(self, state: Mapping[str, Tensor]) -> str | None:
        """Store the model that the job ends with; returns its path."""
        if self._folder is None:
            return None
        states.save_atomically(dict(state), self._folder / "last.pt")
        return str(self._folder / "last.pt")

    def save_example(self, batch: Any) -> None:
        """Store a batch of the input."""
        if self._folder is not None:
            states.save_atomically(batch, self._folder / "example.pt")

    def _drop_bests(self) -> None:
        """Drop the models that were the best before, and are that of no checkpoint that is left."""
        if self._folder is None:
            return
        bests = list(self._bests())
        checkpoints = list(seals.round_files(self._folder))
        for best, following in pairwise(bests):
            if not any(best <= checkpoint < following for checkpoint in checkpoints):
                self._best(best).unlink()

    def _bests(self) -> dict[int, Path]:
        paths = () if self._folder is None else self._folder.glob("best-*.pt")
        found = ((_BEST.fullmatch(path.name), path) for path in paths)
        return dict(sorted((int(match[1]), path) for match, path in found if match))

    def _best(self, round: int) -> Path:
        return (self._folder or Path()) / f"best-{round:05d}.pt"
