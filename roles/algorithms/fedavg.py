"""Federated averaging."""

from roles.catalogue import TRAITS
from roles.strategy import Gathered, State, Strategy


class FedAvg(Strategy):
    """The next global state is the mean, weighted by samples.

    McMahan et al., "Communication-Efficient Learning of Deep Networks from Decentralized Data", AISTATS 2017,
    algorithm 1: w <- sum_k (n_k / n) w_k. No hyperparameters of its own; any synchronous topology serves it.
    """

    traits = TRAITS["roles.algorithms.fedavg.FedAvg"]

    def step(self, current: State, gathered: Gathered, round: int) -> State:  # noqa: ARG002 - the contract
        """The mean itself."""
        return gathered.mean
