"""Federated averaging with momentum at the server."""

from collections.abc import Mapping
from math import isfinite

from torch import Tensor
from typing_extensions import override

from roles.algorithms.server import ServerOptimizer, require, zeros
from roles.catalogue import TRAITS


class FedAvgM(ServerOptimizer):
    """The server moves with momentum along the mean of the differences.

    Hsu, Qi, Brown, "Measuring the Effects of Non-Identical Data Distribution for Federated Visual Classification", 2019
    (arXiv:1909.06335), section 4.3, with d = sum_k (n_k / n) w_k - w: v <- beta v + d, w <- w + eta v, v = 0 at first. beta = 0
    and eta = 1 is FedAvg. Buffers are averaged. Flame has no such algorithm.

    Any synchronous topology with a server serves it; in a hierarchy only the root takes the step. v goes into checkpoints.

    Args:
        beta: momentum, in [0, 1); 0.9 by default, the usual choice. The paper tries 0.7 to 0.997.
        eta: learning rate of the server; 1.0 by default, as in the paper.
    """

    traits = TRAITS["roles.algorithms.fedavgm.FedAvgM"]

    def __init__(self, *, beta: float = 0.9, eta: float = 1.0) -> None:
        super().__init__()
        require("fedavgm.beta", beta, legal="in [0, 1)", ok=0 <= beta < 1)
        require("fedavgm.eta", eta, legal="above 0", ok=eta > 0 and isfinite(eta))
        self.beta = beta
        self.eta = eta

    @override
    def initial(self) -> dict[str, dict[str, Tensor]]:
        return {"v": zeros(self.about)}

    @override
    def movement(self, difference: Tensor, kept: Mapping[str, Tensor]) -> Tensor:
        kept["v"].mul_(self.beta).add_(difference)
        return kept["v"] * self.eta
