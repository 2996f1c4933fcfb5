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


@dataclass(slots=True)
class Fitter:
    """A trainer whose fits all start from epoch 0 and step 0."""

    trainer: Lightning
    _fresh: dict[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        self._fresh = copy.deepcopy(self.trainer.fit_loop.state_dict())

    @classmethod
    def of(cls, options: Mapping[str, Any], callbacks: Sequence[Callback] = ()) -> "Fitter":
        """Make one with these options of Lightning's `Trainer`."""
        return cls(Lightning(**lean(options), callbacks=list(callbacks)))

    def fit(self, module: LightningModule, data: LightningDataModule) -> dict[str, float]:
        """Train `module`; returns what it logged, last values."""
        loop = self.trainer.fit_loop
        loop.load_state_dict(self._fresh)  # which copies its numbers
        loop.restarting = False
        self.trainer.fit(module, datamodule=data)
        return {name: float(value) for name, value in self.trainer.callback_metrics.items()}


def lendable(options: Mapping[str, Any]) -> bool:
    """Whether a trainer with these options holds nothing of a worker between two fits."""
    plain = all(isinstance(value, _PLAIN) for value in options.values())
    return plain and options.get("logger") is False and options.get("enable_checkpointing") is False


class Fitters:
    """Those that are lent for single fits. Making one takes 2.5 ms, most of them for entry points that Lightning looks for."""

    def __init__(self) -> None:
        self._kept: dict[tuple[tuple[str, Any], ...], Fitter] = {}

    @contextmanager
    def lent(self, options: Mapping[str, Any], callbacks: Sequence[Callback]) -> Iterator[Fitter]:
        """A fitter with these options, which are `lendable`, and these callbacks."""
        key = tuple(sorted(options.items()))
        fitter = self._kept.pop(key, None) or Fitter.of(options)
        trainer: Any = fitter.trainer  # Lightning declares `callbacks` nowhere
        defaults = trainer.callbacks
        trainer.callbacks = [*callbacks, *defaults]
        yield fitter
        trainer.callbacks = defaults
        # Only one that is whole comes back: what a fit leaves behind that was broken off is nobody else's to find.
        self._kept[key] = fitter
