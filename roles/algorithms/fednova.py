"""FedNova: normalised averaging of ends that take different numbers of steps."""

from math import isfinite

from lightning.pytorch import LightningModule
from lightning.pytorch import Trainer as Lightning
from torch.optim import Optimizer
from typing_extensions import override

from roles.algorithms.fedprox import Proximal
from roles.algorithms.server import require
from roles.algorithms.steps import Steps
from roles.catalogue import TRAITS
from roles.part import Client, Local, Update
from roles.rounds.average import computable
from roles.strategy import Gathered, State, Strategy

WEIGHT, MOVEMENT = "nova_weight", "nova_movement"
"""Scalars of an update: n_i, and n_i a_i."""


class FedNova(Strategy):
    """Each end's difference is divided by how far its steps went, and the mean is scaled by how far they go on average.

    Wang, Liu, Liang, Joshi, Poor, "Tackling the Objective Inconsistency Problem in Heterogeneous Federated Optimization",
    NeurIPS 2020, equations 6 and 7: x <- x + tau_eff sum_i p_i (x_i - x) / a_i, with p_i = n_i / n, a_i = ||a_i||_1 and tau_eff =
    sum_i p_i a_i. For plain SGD a_i is the number of steps; with momentum or a proximal term, what section 4.1 says.

    Here a_i is what a unit gradient would have moved (`UnitPath`): the paper's, times the learning rate, so that schedules of the
    rate are covered; a common rate cancels. Steps are those of the optimizer, also where gradients are accumulated. It must be
    `torch.optim.SGD` with one rate and one momentum for all exchanged parameters. Nothing travels but weights and two numbers:
    with the updates weighted by n_i / a_i, whose sum is W, the step is x + (sum n_i a_i / n) (W / n) (mean - x). With equal steps
    the factor is 1, and that is FedAvg. Buffers are averaged with the weights n_i / a_i. Flame has no such algorithm.

    Any synchronous topology with a server serves it.

    Args:
        mu: weight of a proximal term as in FedProx, from 0; 0.0 by default, as in most of the paper.
    """

    traits = TRAITS["roles.algorithms.fednova.FedNova"]
    sums = (WEIGHT, MOVEMENT)

    def __init__(self, *, mu: float = 0.0) -> None:
        require("fednova.mu", mu, legal="a number from 0 on", ok=mu >= 0 and isfinite(mu))
        self.mu = mu

    @override
    def step(self, current: State, gathered: Gathered, round: int) -> State:
        n = gathered.sums[WEIGHT]
        factor = gathered.sums[MOVEMENT] / n * (gathered.weight / n)
        for name, mean in gathered.mean.items():
            if name in self.about.parameters:
                here = computable(current[name])
                mean.sub_(here).mul_(factor).add_(here)
        return gathered.mean

    @override
    def client(self) -> Client:
        return FedNovaClient(self.mu)


class FedNovaClient(Proximal):
    """Counts the steps, and weights the update by n_i / a_i."""

    what = "FedNova"

    def __init__(self, mu: float) -> None:
        super().__init__(mu)
        self._steps = Steps("FedNova", mu=mu)

    @override
    def on_train_start(self, trainer: Lightning, pl_module: LightningModule) -> None:
        """Begin to count."""
        super().on_train_start(trainer, pl_module)
        self._steps.begin(trainer.optimizers, self.local.parameters)

    @override
    def on_before_optimizer_step(self, trainer: Lightning, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Add the proximal term, and count the step."""
        super().on_before_optimizer_step(trainer, pl_module, optimizer)
        self._steps.count(optimizer)

    @override
    def finish(self, local: Local, update: Update) -> None:
        super().finish(local, update)
        moved = self._steps.one()
        update.scalars |= {WEIGHT: update.weight, MOVEMENT: update.weight * moved}
        update.weight /= moved
