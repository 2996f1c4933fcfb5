"""Adaptive optimizers at the server: FedAdagrad, FedAdam, FedYogi."""

from abc import abstractmethod
from collections.abc import Mapping
from math import isfinite

import torch
from torch import Tensor
from typing_extensions import override

from roles.algorithms.server import ServerOptimizer, require, zeros
from roles.catalogue import TRAITS


class FedOpt(ServerOptimizer):
    """What the three have in common.

    Reddi, Charles, Zaheer, Garrett, Rush, Konečný, Kumar, McMahan, "Adaptive Federated Optimization", ICLR 2021, algorithm 2.
    With d the weighted mean of the differences of a round: m <- beta_1 m + (1 - beta_1) d, v by the rule of each,
    x <- x + eta m / (sqrt(v) + tau). m starts at 0 and v at tau^2, the least that the paper allows; there is no correction of
    a bias, and the first round is a step like any other. Square, root and quotient are taken entry by entry. Buffers are
    averaged.

    The paper tunes eta and tau for each task and recommends tau = 1e-3 where that is too much. 0.01 is about what it found for
    FedAdam and FedYogi; FedAdagrad, whose v only grows, gets 0.1.

    Flame starts v at 0, takes the first mean as it is without touching m and v, and treats buffers as parameters.

    Any synchronous topology with a server serves them; in a hierarchy only the root takes the step. m and v go into checkpoints.
    """

    def __init__(self, name: str, *, beta_1: float, beta_2: float, eta: float, tau: float) -> None:
        super().__init__()
        require(f"{name}.beta_1", beta_1, legal="in [0, 1)", ok=0 <= beta_1 < 1)
        require(f"{name}.beta_2", beta_2, legal="in [0, 1)", ok=0 <= beta_2 < 1)
        require(f"{name}.eta", eta, legal="above 0", ok=eta > 0 and isfinite(eta))
        require(f"{name}.tau", tau, legal="above 0", ok=tau > 0 and isfinite(tau))
        self.beta_1 = beta_1
        self.beta_2 = beta_2
        self.eta = eta
        self.tau = tau

    @abstractmethod
    def adapt(self, v: Tensor, square: Tensor) -> None:
        """Bring `v` up to date in place with `square`, which is d^2 and may be written to."""

    @override
    def initial(self) -> dict[str, dict[str, Tensor]]:
        # Also of the imaginary part of complex parameters, which are seen as pairs.
        least, m = self.tau**2, zeros(self.about)
        v = {name: torch.full_like(value, complex(least, least) if value.is_complex() else least) for name, value in m.items()}
        return {"m": m, "v": v}

    @override
    def movement(self, difference: Tensor, kept: Mapping[str, Tensor]) -> Tensor:
        m, v = kept["m"], kept["v"]
        m.mul_(self.beta_1).add_(difference, alpha=1 - self.beta_1)
        self.adapt(v, difference.square_())
        return torch.div(m, v.sqrt().add_(self.tau)).mul_(self.eta)


class FedAdagrad(FedOpt):
    """v <- v + d^2; see `FedOpt`.

    Args:
        beta_1: decay of m, in [0, 1); 0.0 by default, as in the paper: Adagrad has no momentum.
        eta: learning rate of the server, above 0; 0.1 by default, see `FedOpt`.
        tau: degree of adaptivity, above 0; 0.001 by default, as the paper recommends.
    """

    traits = TRAITS["roles.algorithms.fedopt.FedAdagrad"]

    def __init__(self, *, beta_1: float = 0.0, eta: float = 0.1, tau: float = 1e-3) -> None:
        super().__init__("fedadagrad", beta_1=beta_1, beta_2=0.0, eta=eta, tau=tau)

    @override
    def adapt(self, v: Tensor, square: Tensor) -> None:
        v.add_(square)


class FedAdam(FedOpt):
    """v <- beta_2 v + (1 - beta_2) d^2; see `FedOpt`.

    Args:
        beta_1: decay of m, in [0, 1); 0.9 by default, as in the paper.
        beta_2: decay of v, in [0, 1); 0.99 by default, as in the paper.
        eta: learning rate of the server, above 0; 0.01 by default, see `FedOpt`.
        tau: degree of adaptivity, above 0; 0.001 by default, as the paper recommends.
    """

    traits = TRAITS["roles.algorithms.fedopt.FedAdam"]

    def __init__(self, *, beta_1: float = 0.9, beta_2: float = 0.99, eta: float = 0.01, tau: float = 1e-3) -> None:
        super().__init__("fedadam", beta_1=beta_1, beta_2=beta_2, eta=eta, tau=tau)

    @override
    def adapt(self, v: Tensor, square: Tensor) -> None:
        v.mul_(self.beta_2).add_(square, alpha=1 - self.beta_2)


class FedYogi(FedOpt):
    """v <- v - (1 - beta_2) d^2 sign(v - d^2); see `FedOpt`.

    Args:
        beta_1: decay of m, in [0, 1); 0.9 by default, as in the paper.
        beta_2: how little v follows d^2, in [0, 1); 0.99 by default, as in the paper.
        eta: learning rate of the server, above 0; 0.01 by default, see `FedOpt`.
        tau: degree of adaptivity, above 0; 0.001 by default, as the paper recommends.
    """

    traits = TRAITS["roles.algorithms.fedopt.FedYogi"]

    def __init__(self, *, beta_1: float = 0.9, beta_2: float = 0.99, eta: float = 0.01, tau: float = 1e-3) -> None:
        super().__init__("fedyogi", beta_1=beta_1, beta_2=beta_2, eta=eta, tau=tau)

    @override
    def adapt(self, v: Tensor, square: Tensor) -> None:
        v.addcmul_(torch.sign(v - square), square, value=self.beta_2 - 1)
