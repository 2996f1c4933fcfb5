"""What server halves share: checked hyperparameters, state as wide as the sums, the mean as a gradient."""

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from roles.rounds.average import accumulate, accumulator_dtype, averaged, computable
from roles.strategy import About, Gathered, State, Strategy


def require(name: str, value: float, *, legal: str, ok: bool) -> None:
    """Check a hyperparameter.

    Raises:
        ValueError: it is not ok; the text says what would be.
    """
    if not ok:
        raise ValueError(f"{name} must be {legal}, not {value!r}")


def require_whole(name: str, value: int | None) -> None:
    """Check a count that may be left out.

    Raises:
        ValueError: it is neither None nor an integer from 1 on.
    """
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
        raise ValueError(f"{name} must be an integer from 1 on, not {value!r}")


def zeros(about: About) -> dict[str, Tensor]:
    """Name -> zeros for each parameter of the global model, in the dtype of its sum: at least float32."""
    return zeros_for({name: value for name, value in about.start.items() if name in about.parameters})


def zeros_for(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Name -> zeros in the shape of each of `values`, in the dtype of its sum: at least float32."""
    return {name: torch.zeros(value.shape, dtype=accumulator_dtype(value.dtype)) for name, value in values.items()}


def taken(owner: str, state: Mapping[str, Any], like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a state that was stored, in the dtypes of `like`.

    Raises:
        ValueError: they are not the state of these parameters.
    """
    found = {name: tuple(value.shape) for name, value in state.items()}
    expected = {name: tuple(value.shape) for name, value in like.items()}
    if found != expected:
        differ = sorted(name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name))
        raise ValueError(f"the stored state of {owner} is of other parameters: {differ[:5]} differ")
    return {name: state[name].to(value.dtype) for name, value in like.items()}


def real(value: Tensor) -> Tensor:
    """`value`, or a view of its real and imaginary parts: rules that square a gradient treat them as two."""
    return torch.view_as_real(value) if value.is_complex() else value


def merge_counter(mean: Tensor, current: Tensor) -> None:
    """Let an integer buffer not go back: stale updates bring smaller counts than the model has."""
    if not averaged(mean.dtype):
        accumulate(mean, current, 1.0, first=False)


class ServerOptimizer(Strategy):
    """Takes the mean of the differences, mean - x, for a gradient of opposite sign, and moves each parameter by `movement`."""

    def __init__(self) -> None:
        self._state: dict[str, dict[str, Tensor]] = {}

    @abstractmethod
    def initial(self) -> dict[str, dict[str, Tensor]]:
        """Name of a quantity that is kept over the rounds -> its tensors by parameter, in at least float32."""

    @abstractmethod
    def movement(self, difference: Tensor, kept: Mapping[str, Tensor]) -> Tensor:
        """What is added to one parameter.

        Args:
            difference: mean - x, real, in at least float32; may be written to.
            kept: name of a quantity -> its tensor for this parameter, of the same shape; to be brought up to date in place.
        """

    @override
    def begin(self, about: About) -> None:
        super().begin(about)
        self._state = self.initial()

    @override
    def step(self, current: State, gathered: Gathered, round: int) -> State:
        for name, mean in gathered.mean.items():
            if name in self.about.parameters:
                here, there = real(computable(current[name])), real(mean)
                kept = {quantity: real(tensors[name]) for quantity, tensors in self._state.items()}
                torch.add(here, self.movement(there.sub_(here), kept), out=there)
        return gathered.mean

    @override
    def state_dict(self) -> dict[str, Any]:
        return dict(self._state)

    @override
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        owner = type(self).__name__
        if state.keys() != self._state.keys():
            raise ValueError(f"{owner} keeps {sorted(self._state)}, the checkpoint has {sorted(state)}")
        self._state = {quantity: taken(owner, state[quantity], like) for quantity, like in self._state.items()}
