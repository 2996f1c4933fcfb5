"""Error feedback: what a lossy codec did not send is added to what it is given next."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from roles.codecs.stage import Parts, Stage, finite
from transports.message import TensorSpec


class Feedback:
    """The memory of one sender: name of an entry -> what of it was not sent yet, in at least float32.

    Seide et al., "1-Bit Stochastic Gradient Descent", Interspeech 2014. At any time, what was sent plus what is
    remembered is the sum of what was given, up to float rounding.
    """

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._unsent: dict[str, Tensor] = {}

    def encode(self, name: str, value: Tensor, parts: Parts) -> None:
        """Encode `value` and what is remembered of `name`; remember what that leaves out.

        A value that is not finite is refused by its receiver, and not remembered.
        """
        if not finite(value):
            self._stage.encode(value, parts)
            return
        unsent = self._unsent.get(name)
        if unsent is None:
            unsent = self._unsent[name] = value.clone()
        else:
            unsent.add_(value)
        self._stage.encode(unsent, parts)
        self._stage.add(parts, unsent, -1.0)

    def take_back(self, name: str, parts: Parts) -> None:
        """Remember what `parts` hold as well: they were sent, but not taken."""
        unsent = self._unsent.get(name)
        if unsent is not None and self._stage.check(parts, TensorSpec(unsent.dtype, tuple(unsent.shape))) is None:
            self._stage.add(parts, unsent, 1.0)

    def state_dict(self) -> dict[str, Any]:
        """What the next round needs of the last ones."""
        return {"unsent": dict(self._unsent)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what `state_dict` gave."""
        self._unsent = {name: value.clone() for name, value in state["unsent"].items()}
