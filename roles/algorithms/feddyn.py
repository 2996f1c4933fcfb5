"""FedDyn: local objectives that are adapted so that their optima meet."""

from collections.abc import Mapping
from math import isfinite
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch import Trainer as Lightning
from torch import Tensor
from typing_extensions import override

from roles.algorithms.gradients import GradientTerm
from roles.algorithms.server import require, taken, zeros, zeros_for
from roles.catalogue import TRAITS
from roles.part import About, Client, Local, Update
from roles.rounds.average import computable
from roles.strategy import Gathered, State, Strategy


class FedDyn(Strategy):
    """Trainers minimise L_k(w) - <g_k, w> + (alpha / 2) ||w - w_t||^2, with g_k the gradient that they ended at before.

    Acar, Zhao, Matas Navarro, Mattina, Whatmough, Saligrama, "Federated Learning Based on Dynamic Regularization", ICLR 2021,
    algorithm 1. An end of the round then sets g_k <- g_k - alpha (w_k - w_t); those that sit out keep theirs. At the server, with
    P the ends of the round out of m: h <- h - (alpha / m) sum_P (w_k - w_t), w <- mean_P(w_k) - h / alpha. All g_k and h start
    at 0. The mean is a plain one: all ends count the same, whatever `job.share.weightedBy` says. Buffers are averaged.

    As alpha goes to 0 the server's step does not go to that of FedAvg: h / alpha stays what it is. alpha = 0 is taken for no
    regularisation at all: FedAvg with plain means.

    The module needs no change: the gradient -g_k + alpha (w - w_t) is added to that of the loss (`GradientTerm`). g_k lives with
    its trainer and survives a restart. The global model is w, with the correction by h, as in the paper's algorithm; the authors'
    code also evaluates the mean without it. Their code, and Flame, scale alpha by the samples of each end; the algorithm does
    not. Flame learns the samples in a message of its own, keeps h for each end at the server, and drops it when one sits out.

    Any synchronous topology with a server serves it.

    Args:
        alpha: weight of the regularisation, from 0; 0.01 by default, the middle of the paper's 0.1, 0.01, 0.001.
    """

    traits = TRAITS["roles.algorithms.feddyn.FedDyn"]
    weighted_by = "uniform"

    def __init__(self, *, alpha: float = 0.01) -> None:
        require("feddyn.alpha", alpha, legal="a number from 0 on", ok=alpha >= 0 and isfinite(alpha))
        self.alpha = alpha
        self._h: dict[str, Tensor] = {}
        """h / alpha, which is all that the algorithm asks of h."""

    @override
    def begin(self, about: About) -> None:
        super().begin(about)
        self._h = zeros(about)

    @override
    def step(self, current: State, gathered: Gathered, round: int) -> State:
        if self.alpha:
            share = gathered.count / self.about.population
            for name, h in self._h.items():
                mean = gathered.mean[name]
                h.sub_(mean - computable(current[name]), alpha=share)
                mean.sub_(h)
        return gathered.mean

    @override
    def client(self) -> Client | None:
        return FedDynClient(self.alpha) if self.alpha else None

    @override
    def state_dict(self) -> dict[str, Any]:
        return {"h_over_alpha": self._h}

    @override
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._h = taken("feddyn.h", state["h_over_alpha"], self._h)


class FedDynClient(GradientTerm):
    """Adds -g_k + alpha (w - w_t) to the gradients, and keeps g_k."""

    what = "FedDyn"

    def __init__(self, alpha: float) -> None:
        super().__init__()
        self._alpha = alpha
        self._own: dict[str, Tensor] = {}
        """g_k"""
        self._former: dict[str, Tensor] = {}
        """g_k before the last update: h adds up what the updates that count change in all g_k."""
        self._there: dict[str, Tensor] = {}
        """g_k where the module trains, in its dtypes."""

    @override
    def begin(self, local: Local) -> None:
        super().begin(local)
        self._own = self._former = zeros_for(local.parameters)

    @override
    def on_train_start(self, trainer: Lightning, pl_module: LightningModule) -> None:
        """Bring g_k to where the module is."""
        super().on_train_start(trainer, pl_module)
        parameters = self.local.parameters
        self._there = {
            name: own.to(device=parameters[name].device, dtype=parameters[name].dtype) for name, own in self._own.items()
        }

    @override
    def gradient(self, name: str, parameter: Tensor) -> Tensor:
        return torch.sub(parameter, self.anchor[name]).mul_(self._alpha).sub_(self._there[name])

    @override
    def finish(self, local: Local, update: Update) -> None:
        renewed = {}
        for name, own in self._own.items():
            way = update.weights[name].to(device="cpu", dtype=own.dtype) - self.anchor[name].to(own.dtype)
            renewed[name] = own.sub(way, alpha=self._alpha)
        self._former, self._own = self._own, renewed
        self._there.clear()
        super().finish(local, update)

    @override
    def refused(self, local: Local) -> None:
        self._own = self._former

    @override
    def state_dict(self) -> dict[str, Any]:
        return {"g_k": self._own}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._own = self._former = taken("feddyn.g_k", state_dict["g_k"], self._own)
