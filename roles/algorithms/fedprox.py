"""Federated averaging with a proximal term in the local objectives."""

from math import isfinite

import torch
from torch import Tensor
from typing_extensions import override

from roles.algorithms.gradients import GradientTerm
from roles.algorithms.server import require
from roles.catalogue import TRAITS
from roles.part import Client
from roles.strategy import Gathered, State, Strategy


class Proximal(GradientTerm):
    """Adds the gradient of (mu / 2) ||w - w_t||^2 over the exchanged parameters, with w_t the received model."""

    what = "the proximal term"

    def __init__(self, mu: float) -> None:
        super().__init__()
        self.mu = mu

    @property
    @override
    def adds(self) -> bool:
        return self.mu > 0

    @override
    def gradient(self, name: str, parameter: Tensor) -> Tensor:
        return torch.sub(parameter, self.anchor[name]).mul_(self.mu)


class FedProx(Strategy):
    """Trainers minimise h_k(w; w_t) = F_k(w) + (mu / 2) ||w - w_t||^2; the server takes the mean, weighted by samples.

    Li, Sahu, Zaheer, Sanjabi, Talwalkar, Smith, "Federated Optimization in Heterogeneous Networks", MLSys 2020, algorithm 2.
    The paper draws devices in proportion to their samples and takes the plain mean; here every end takes part unless a selector
    says otherwise, and the mean is that of FedAvg. A different amount of work on each device, which the term makes bearable,
    comes from `job.roles` or a sampler. The gradient of the term is added to that of the loss (`GradientTerm`): the module
    needs no change, while Flame asks the user's code to add the term. mu = 0 is FedAvg to the bit.

    Any synchronous topology serves it, also a ring.

    Args:
        mu: weight of the term, from 0; 0.01 by default. The paper tunes it in {0.001, 0.01, 0.1, 1}.
    """

    traits = TRAITS["roles.algorithms.fedprox.FedProx"]

    def __init__(self, *, mu: float = 0.01) -> None:
        require("fedprox.mu", mu, legal="a number from 0 on", ok=mu >= 0 and isfinite(mu))
        self.mu = mu

    @override
    def step(self, current: State, gathered: Gathered, round: int) -> State:
        return gathered.mean

    @override
    def client(self) -> Client | None:
        return Proximal(self.mu) if self.mu else None
