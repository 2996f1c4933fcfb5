"""The server half of an algorithm. A strategy is data and one or two pure functions; the round loop is not its business."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

from lightning.pytorch import Callback
from torch import Tensor

State = Mapping[str, Tensor]
"""Name -> tensor: the averaged part of a `state_dict`."""


class Strategy(ABC):
    """What the root does with the mean of a round's updates, and what trainers add to their training."""

    mergeable: ClassVar[bool] = True
    """Whether sums of updates add up, so that middle aggregators may return them."""

    @abstractmethod
    def step(self, current: State, mean: State, round: int) -> State:
        """The next global state.

        Args:
            current: the global state that the round started from, in the module's dtypes.
            mean: the weighted mean of the updates, in at least float32; may be reused as the result.
            round: from 1.
        """

    def callbacks(self) -> list[Callback]:
        """The client half: Lightning callbacks that trainers add to the user's own."""
        return []

    def state_dict(self) -> dict[str, Any]:
        """What the next round needs of the last ones; goes into checkpoints."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what `state_dict` gave."""
        if state:
            raise ValueError(f"{type(self).__name__} keeps no state, the checkpoint has {sorted(state)}")


class FedAvg(Strategy):
    """Federated averaging: the next global state is the mean, weighted by samples.

    McMahan et al., "Communication-Efficient Learning of Deep Networks from Decentralized Data", AISTATS 2017,
    algorithm 1: w <- sum_k (n_k / n) w_k. No hyperparameters of its own; any topology serves it.
    """

    def step(self, current: State, mean: State, round: int) -> State:  # noqa: ARG002 - the contract
        """The mean itself."""
        return mean
