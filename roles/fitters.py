"""Lightning trainers for local fits: one for each worker, or one for many workers of a process that fit one after the other."""

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from lightning.pytorch import Callback, LightningDataModule, LightningModule
from lightning.pytorch import Trainer as Lightning

from roles.lean import lean

_PLAIN = (bool, int, float, str, type(None))
_SCALED = ("16", "16-mixed")


@dataclass(slots=True)
class Fitter:
    """A trainer whose fits all start from epoch 0 and step 0."""

    trainer: Lightning
    _fresh: dict[str, Any] = field(init=False)
    _settings: list[tuple[dict[str, Any], dict[str, Any]]] = field(init=False)
    """Attributes of the trainer and of its fit loop, and what they were at first."""

    def __post_init__(self) -> None:
        self._fresh = copy.deepcopy(self.trainer.fit_loop.state_dict())
        self._settings = [(vars(each), _plain(vars(each))) for each in (self.trainer, self.trainer.fit_loop)]

    @classmethod
    def of(cls, options: Mapping[str, Any], callbacks: Sequence[Callback] = ()) -> "Fitter":
        """Make one with these options of Lightning's `Trainer`."""
        return cls(Lightning(**lean(options), callbacks=list(callbacks)))

    def reset(self) -> None:
        """Undo what modules and callbacks have set on the trainer itself, such as how many batches it accumulates."""
        for attributes, first in self._settings:
            attributes.update(first)

    def fit(self, module: LightningModule, data: LightningDataModule) -> dict[str, float]:
        """Train `module`; returns what it logged, last values.

        Raises:
            KeyboardInterrupt: the module or a callback raised it.
        """
        loop = self.trainer.fit_loop
        loop.load_state_dict(self._fresh)  # which copies its numbers
        loop.restarting = False
        try:
            self.trainer.fit(module, datamodule=data)
        except (SystemExit, ValueError) as end:
            # Lightning wants an interrupt to end the process, and outside its main thread fails at that.
            if isinstance(end.__context__, KeyboardInterrupt):
                raise end.__context__ from None
            raise
        return {name: float(value) for name, value in self.trainer.callback_metrics.items()}


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
    def lent(self, options: Mapping[str, Any], callbacks: Sequence[Callback]) -> Iterator[Fitter]:
        """A fitter with these options, which are `lendable`, and these callbacks."""
        # To Lightning 1 batch is not 1.0, all of them; to Python they are equal.
        key = tuple((name, type(value), value) for name, value in sorted(options.items()))
        fitter = self._kept.pop(key, None) or Fitter.of(options)
        fitter.reset()
        trainer: Any = fitter.trainer  # Lightning declares `callbacks` nowhere
        defaults = trainer.callbacks
        trainer.callbacks = [*callbacks, *defaults]
        yield fitter
        trainer.callbacks = defaults
        # Only one that is whole comes back: what a fit leaves behind that was broken off is nobody else's to find.
        self._kept[key] = fitter
