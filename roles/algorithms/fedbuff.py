"""FedBuff: asynchronous rounds with a buffer of updates."""

from math import isfinite

from typing_extensions import override

from roles.algorithms.server import merge_counter, require, require_whole
from roles.catalogue import TRAITS
from roles.rounds.average import averaged, computable
from roles.strategy import Buffer, Gathered, State, Strategy


class FedBuff(Strategy):
    """The server takes a step for every K updates of its ends, whichever model they were made from.

    Nguyen, Malik, Zhan, Yousefpour, Rabbat, Malek, Huba, "Federated Learning with Buffered Asynchronous Aggregation", AISTATS
    2022, algorithm 1, with D_i = w_i - w the difference of an update from the model that it was made from, t rounds old:
    x <- x + (eta_g / K) sum_i s(t_i) D_i, s(t) = (1 + t)^-a with a = 0.5. Trainers count the same whatever their samples and
    whatever `job.share.weightedBy` says; the number of updates divides the sum, not the sum of the s. With K ends, all of them
    at the same model, it is FedAvg with plain means.

    Differences are those of parameters. Floating-point buffers travel as they are, and go towards their mean by the mean
    of s: the difference to an old running variance could make one negative. Integer buffers never go back.

    In Flame an end may count several times in a buffer, and BatchNorm ends the job; here `repeat` allows the one, and the other
    works.

    Needs asynchronous rounds. In a hierarchy each level has a buffer of its own: below middle aggregators an update of an end of
    the root is a sum of trainers' updates, `k` counts such sums, each counts by its own age besides those of its updates, and
    what divides is the number of trainers' updates in all of them. An aggregator whose ends have nothing more to give, be it
    that all who can have delivered or that a coordinator has nobody left to lend, closes its round with the updates that it has.

    Args:
        k: K, how many updates of its ends close a round at the root; 10 by default, as in the paper.
        concurrency: M_c, how many ends of an aggregator train at the same time; None, the default: all.
        eta_g: learning rate of the server, above 0; 1.0 by default, which is to be tuned.
        a: exponent of the staleness, from 0; 0.5 by default, as in the paper.
        repeat: whether several updates of one end may count in one round; False by default.
        middle_k: how many updates of its ends close a round of a middle aggregator; None, the default: k.
    """

    traits = TRAITS["roles.algorithms.fedbuff.FedBuff"]
    weighted_by = "uniform"

    def __init__(
        self,
        *,
        k: int = 10,
        concurrency: int | None = None,
        eta_g: float = 1.0,
        a: float = 0.5,
        repeat: bool = False,
        middle_k: int | None = None,
    ) -> None:
        for name, value in (("k", k), ("concurrency", concurrency), ("middle_k", middle_k)):
            require_whole(f"fedbuff.{name}", value)
        require("fedbuff.eta_g", eta_g, legal="above 0", ok=eta_g > 0 and isfinite(eta_g))
        require("fedbuff.a", a, legal="a number from 0 on", ok=a >= 0 and isfinite(a))
        self.k = k
        self.middle_k = middle_k
        self.concurrency = concurrency
        self.eta_g = eta_g
        self.a = a
        self.repeat = repeat

    @override
    def buffer(self, *, root: bool) -> Buffer:
        size = self.k if root or self.middle_k is None else self.middle_k
        return Buffer(size=size, concurrency=self.concurrency, repeat=self.repeat)

    @override
    def staleness_weight(self, staleness: int) -> float:
        return float((1 + staleness) ** -self.a)

    @override
    def step(self, current: State, gathered: Gathered, round: int) -> State:
        mean_s = gathered.weight / gathered.count
        for name, mean in gathered.mean.items():
            here = computable(current[name])
            if name in self.about.parameters:
                mean.mul_(self.eta_g * mean_s).add_(here)
            elif averaged(mean.dtype):
                mean.sub_(here).mul_(mean_s).add_(here)
            else:
                merge_counter(mean, here)
        return gathered.mean
