"""Lightning's own callbacks, taken back before each fit to what they were when they were made.

A round is a training of its own, whose epochs and steps count from 0. A callback that stops early, averages or saves remembers
how far it was, and would do little or nothing from the second round on.
"""

import copy
import logging
import weakref
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import chain
from types import MethodType
from typing import Any

from lightning.pytorch import Callback, LightningModule
from lightning.pytorch import Trainer as Lightning
from torch import nn
from typing_extensions import override

from roles.part import Client

log = logging.getLogger(__name__)


def from_lightning(callback: Callback) -> bool:
    """Whether what it does comes from Lightning: of its classes one other than `Callback` does."""
    kinds = (each for each in type(callback).__mro__ if issubclass(each, Callback) and each is not Callback)
    return not isinstance(callback, Client) and any(kind.__module__.startswith("lightning.") for kind in kinds)


class Pristine:
    """A callback as it is now. Does not keep it alive.

    What cannot be copied of it stays as it will be then, and the log says so; so do methods and partial functions, which it was
    given.

    Args:
        callback: before its first fit.
        module: what it may refer to, as a whole or in parts.
    """

    def __init__(self, callback: Callback, module: nn.Module | None = None) -> None:
        self._callback = weakref.ref(callback)
        attributes = vars(callback)
        parts = () if module is None else chain(module.modules(), module.parameters(), module.buffers())
        given = (value for value in attributes.values() if isinstance(value, MethodType | partial))
        self._shared = [*parts, *given]
        for name, value in attributes.items():
            if (why := self._stuck(value)) is not None:
                self._shared.append(value)
                log.warning(
                    "%s.%s cannot be copied (%s): it goes from round to round as it is. All else of this callback, which comes "
                    "from Lightning, begins each round anew",
                    type(callback).__name__,
                    name,
                    why,
                )
        self._attributes = self._copied(attributes)

    @property
    def callback(self) -> Callback | None:
        """The callback; None when it is no longer there."""
        return self._callback()

    def restore(self) -> None:
        """Take the callback back to what it was."""
        callback = self.callback
        if callback is not None:
            attributes = self._copied(self._attributes)
            vars(callback).clear()
            vars(callback).update(attributes)

    def _copied(self, attributes: Mapping[str, Any]) -> dict[str, Any]:
        return dict(copy.deepcopy(attributes, self._memory()))

    def _stuck(self, value: Any) -> str | None:
        try:
            copy.deepcopy(value, self._memory())
        except Exception as error:  # noqa: BLE001 - whatever a class of somebody else raises; it is told
            return f"{type(error).__name__}: {error}"
        return None

    def _memory(self) -> dict[int, Any]:
        """To `deepcopy`, what is copied already: each of these is its own copy."""
        return {id(each): each for each in (*self._shared, self.callback)}


class Brought(Callback):
    """Sees the callbacks that a module itself brings, in front of them, and has each fit begin with them as they were made.

    Lightning asks the module for them (`configure_callbacks`) in every fit. New ones are as they should be; the same ones as
    before are taken back.
    """

    def __init__(self) -> None:
        self.others: Sequence[Callback] = ()
        """Those of the trainer before the fit, this one among them."""
        self._known: dict[int, Pristine] = {}

    @override
    def setup(self, trainer: Lightning, pl_module: LightningModule, stage: str) -> None:
        attached: Any = trainer  # Lightning declares `callbacks` nowhere
        others = {id(each) for each in self.others}
        self._known = {key: known for key, known in self._known.items() if known.callback is not None}
        for callback in attached.callbacks:
            if id(callback) in others or not from_lightning(callback):
                continue
            known = self._known.get(id(callback))
            if known is None:
                self._known[id(callback)] = Pristine(callback, pl_module)
            else:
                known.restore()
        # Its work is done for this fit, and every batch asks every callback for its hooks.
        attached.callbacks = [each for each in attached.callbacks if each is not self]


def brings_callbacks(module: LightningModule) -> bool:
    """Whether `module` has callbacks of its own."""
    return getattr(module.configure_callbacks, "__func__", None) is not LightningModule.configure_callbacks
