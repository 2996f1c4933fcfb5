"""Lightning trainers for local fits: one for each worker, or one for many workers of a process that fit one after the other."""

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningDataModule, LightningModule
from lightning.pytorch import Trainer as Lightning

from roles.lean import lean
from roles.pristine import Pristine, from_lightning

_PLAIN = (bool, int, float, str, type(None))
_SCALED = ("16", "16-mixed")


@dataclass(slots=True)
class Fitter:
    """A trainer whose fits all start from epoch 0 and step 0."""

    trainer: Lightning
    _fresh: dict[str, Any] = field(init=False)
    _attributes: list[tuple[dict[str, Any], dict[str, Any]]] = field(init=False)
    """Attributes of the trainer and of its loops, and what they were at first."""
    made: tuple[Callback, ...] = field(init=False)
    """The callbacks it was made with, Lightning's own defaults among them."""
    _pristine: list[Pristine] = field(init=False)

    def __post_init__(self) -> None:
        loop = self.trainer.fit_loop
        self._fresh = copy.deepcopy(loop.state_dict())
        self._attributes = [(vars(each), dict(vars(each))) for each in (self.trainer, loop, loop.epoch_loop)]
        self.made = tuple(vars(self.trainer)["callbacks"])
        self._pristine = [Pristine(each) for each in self.made if from_lightning(each)]

    @classmethod
    def of(cls, options: Mapping[str, Any], callbacks: Sequence[Callback] = ()) -> "Fitter":
        """Make one with these options of Lightning's `Trainer`."""
        return cls(Lightning(**lean(options), callbacks=list(callbacks)))

    def reset(self) -> None:
        """Undo what fits left behind: what they set on the trainer itself, and what Lightning's own callbacks remember."""
        for attributes, first in self._attributes:
            attributes.clear()
            attributes.update(first)
        vars(self.trainer)["callbacks"] = list(self.made)
        for each in self._pristine:
            each.restore()

    def fit(self, module: LightningModule, data: LightningDataModule, *, logged: int = 0) -> dict[str, float]:
        """Train `module`; returns what it logged, last values.

        Args:
            module: what is trained.
            data: what it is trained on.
            logged: the step that loggers are at. It says when and under which step to log, nothing else.

        Raises:
            KeyboardInterrupt: the module or a callback raised it.
        """
        loop = self.trainer.fit_loop
        loop.load_state_dict(self._fresh)  # which copies its numbers
        loop.restarting = False
        loop.epoch_loop._batches_that_stepped = logged  # noqa: SLF001 - no other way
        try:
            self.trainer.fit(module, datamodule=data)
        except (SystemExit, ValueError) as end:
            # Lightning wants an interrupt to end the process, and outside its main thread fails at that.
            if isinstance(end.__context__, KeyboardInterrupt):
                raise end.__context__ from None
            raise
        return {name: float(value) for name, value in self.trainer.callback_metrics.items()}

    @property
    def logged(self) -> int:
        """The step that loggers are at now."""
        return self.trainer.fit_loop.epoch_loop._batches_that_stepped  # noqa: SLF001 - no other way


def lendable(options: Mapping[str, Any]) -> bool:
    """Whether a trainer with these options holds nothing of a worker between two fits."""
    plain = len(_plain(options)) == len(options)
    # Half precision comes with a scale of the loss that is learnt from fit to fit.
    unscaled = str(options.get("precision")) not in _SCALED
    return plain and unscaled and options.get("logger") is False and options.get("enable_checkpointing") is False


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if isinstance(value, _PLAIN)}


class Fitters:
    """Those that are lent for single fits. Making one takes 2.5 ms, most of them for entry points that Lightning looks for."""

    def __init__(self) -> None:
        self._kept: dict[tuple[tuple[str, type, Any], ...], Fitter] = {}

    @contextmanager
    def lent(self, options: Mapping[str, Any], callbacks: Sequence[Callback], folder: Path | None = None) -> Iterator[Fitter]:
        """A fitter with these options, which are `lendable`, and these callbacks; it writes into `folder`."""
        # To Lightning 1 batch is not 1.0, all of them; to Python they are equal.
        key = tuple((name, type(value), value) for name, value in sorted(options.items()))
        fitter = self._kept.pop(key, None) or Fitter.of(options)
        fitter.reset()
        trainer: Any = fitter.trainer  # Lightning declares `callbacks` nowhere
        trainer.callbacks[:0] = callbacks
        if folder is not None and options.get("default_root_dir") is None:
            trainer._default_root_dir = str(folder)  # noqa: SLF001 - an option cannot be of one worker only
        yield fitter
        trainer.callbacks = list(fitter.made)
        # Only one that is whole comes back: what a fit leaves behind that was broken off is nobody else's to find.
        self._kept[key] = fitter
