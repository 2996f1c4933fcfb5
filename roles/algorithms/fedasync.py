"""FedAsync: the global model moves towards each update when it comes."""

from math import isfinite
from typing import Literal

from typing_extensions import override

from roles.algorithms.fedprox import Proximal
from roles.algorithms.server import merge_counter, require, require_whole
from roles.catalogue import TRAITS
from roles.part import Client
from roles.rounds.average import averaged, computable
from roles.strategy import Buffer, Gathered, State, Strategy

Staleness = Literal["constant", "polynomial", "hinge"]
DEFAULT_A = {"constant": 0.0, "polynomial": 0.5, "hinge": 10.0}


class FedAsync(Strategy):
    """x <- (1 - alpha_t) x + alpha_t x_new for every update, alpha_t = alpha s(t), t the age of its model in rounds.

    Xie, Koyejo, Gupta, "Asynchronous Federated Optimization", 2019 (arXiv:1903.03934), algorithm 1 and section 5.2. s(t) is
    constant: 1; polynomial: (t + 1)^-a; hinge: 1 up to t = b, then 1 / (a (t - b) + 1). Ends minimise their loss plus
    (rho / 2) ||w - w_t||^2, whose gradient is added to that of the loss as in FedProx. A round is one update. Floating-point
    buffers are mixed as parameters are; integer buffers never go back. Flame has no such algorithm.

    Needs asynchronous rounds, and an aggregator that sees each update: no middle ones.

    Args:
        alpha: mixing weight, in (0, 1]; 0.6 by default.
        staleness: which s: "constant", "polynomial" (the default) or "hinge".
        a: a of s, from 0; None, the default: the paper's, 0.5 for polynomial and 10 for hinge.
        b: b of hinge, rounds of age that cost nothing, from 0; 4.0 by default, as in the paper.
        concurrency: how many ends train at the same time; None, the default: all.
        rho: weight of the proximal term, from 0; 0.005 by default.
    """

    traits = TRAITS["roles.algorithms.fedasync.FedAsync"]
    weighted_by = "uniform"

    def __init__(
        self,
        *,
        alpha: float = 0.6,
        staleness: Staleness = "polynomial",
        a: float | None = None,
        b: float = 4.0,
        concurrency: int | None = None,
        rho: float = 0.005,
    ) -> None:
        if staleness not in DEFAULT_A:
            raise ValueError(f"fedasync.staleness must be one of {', '.join(DEFAULT_A)}, not {staleness!r}")
        self.a = DEFAULT_A[staleness] if a is None else a
        require("fedasync.alpha", alpha, legal="in (0, 1]", ok=0 < alpha <= 1)
        require("fedasync.a", self.a, legal="a number from 0 on", ok=self.a >= 0 and isfinite(self.a))
        require("fedasync.b", b, legal="a number from 0 on", ok=b >= 0 and isfinite(b))
        require("fedasync.rho", rho, legal="a number from 0 on", ok=rho >= 0 and isfinite(rho))
        require_whole("fedasync.concurrency", concurrency)
        self.alpha = alpha
        self.staleness = staleness
        self.b = b
        self.concurrency = concurrency
        self.rho = rho

    @override
    def buffer(self, *, root: bool) -> Buffer:
        return Buffer(size=1, concurrency=self.concurrency)

    @override
    def staleness_weight(self, staleness: int) -> float:
        if self.staleness == "polynomial":
            return float((staleness + 1) ** -self.a)
        if self.staleness == "hinge" and staleness > self.b:
            return 1.0 / (self.a * (staleness - self.b) + 1)
        return 1.0

    @override
    def step(self, current: State, gathered: Gathered, round: int) -> State:
        alpha = self.alpha * gathered.weight / gathered.count
        for name, mean in gathered.mean.items():
            here = computable(current[name])
            if averaged(mean.dtype):
                mean.sub_(here).mul_(alpha).add_(here)
            else:
                merge_counter(mean, here)
        return gathered.mean

    @override
    def client(self) -> Client | None:
        return Proximal(self.rho) if self.rho else None
