"""SCAFFOLD: control variates against the drift of local training."""

from collections.abc import Mapping
from math import isfinite
from typing import Any, Literal

from lightning.pytorch import LightningModule
from lightning.pytorch import Trainer as Lightning
from torch import Tensor
from torch.optim import Optimizer
from typing_extensions import override

from roles.algorithms.gradients import GradientTerm
from roles.algorithms.passes import full_gradient
from roles.algorithms.server import require, taken, zeros, zeros_for
from roles.algorithms.steps import Steps
from roles.catalogue import TRAITS
from roles.errors import BadModel
from roles.part import About, Client, Local, Update
from roles.rounds.average import computable
from roles.strategy import Gathered, State, Strategy
from transports.message import Message, Specs

CONTROL = "control"
"""Name of the tensor group with c on the way down, and with the change of c_i on the way up."""

Option = Literal["I", "II"]


class Scaffold(Strategy):
    """Trainers step along g_i(y) - c_i + c; control variates c_i and c estimate the gradients of the ends and of all.

    Karimireddy, Kale, Mohri, Reddi, Stich, Suresh, "SCAFFOLD: Stochastic Controlled Averaging for Federated Learning", ICML
    2020, algorithm 1. At an end, from y = x: y <- y - eta_l (g_i(y) - c_i + c), K times; then c_i+ is, by option, (I) the
    gradient of the whole local loss at x, or (II) c_i - c + (x - y) / (K eta_l). At the server, with S the ends of the round out
    of N: x <- x + eta_g mean_S(y - x), c <- c + (|S| / N) mean_S(c_i+ - c_i). All c start at 0. Both means are plain ones: all
    ends count the same, whatever `job.share.weightedBy` says. Buffers are averaged and have no control variates.

    Steps are those of the optimizer, with the rate that it has in each: K eta_l is the sum of the rates, also where a schedule
    changes them or gradients are accumulated. Option II needs `torch.optim.SGD`. With momentum the sum becomes what a unit
    gradient would have moved (`UnitPath`), so that c_i stays a mean of gradients; weight decay is part of the gradient. Any
    other optimizer needs option I, which costs one more pass over the data each round, and calls `training_step` there.

    c_i lives with its trainer and survives a restart. It moves by what is handed up, so that c stays the mean of all c_i also
    where `privacy` clips that change. An update that is refused, or comes after its round, leaves c without a
    change that its trainer has made to c_i; the next ones still count.

    Flame divides by a number of batches that the user states, scales c by the samples of each end, and learns those in a
    message of their own.

    Any synchronous topology with a server serves it; every message holds c as well, which doubles it.

    Args:
        option: how c_i is renewed, "I" or "II"; "II" by default, which the paper uses.
        eta_g: learning rate of the server; 1.0 by default, as in the paper.
    """

    traits = TRAITS["roles.algorithms.scaffold.Scaffold"]
    weighted_by = "uniform"

    def __init__(self, *, option: Option = "II", eta_g: float = 1.0) -> None:
        if option not in ("I", "II"):
            raise ValueError(f"scaffold.option must be I or II, not {option!r}")
        require("scaffold.eta_g", eta_g, legal="above 0", ok=eta_g > 0 and isfinite(eta_g))
        self.option: Option = option
        self.eta_g = eta_g
        self._c: dict[str, Tensor] = {}

    @override
    def begin(self, about: About) -> None:
        super().begin(about)
        self._c = zeros(about)

    @override
    def step(self, current: State, gathered: Gathered, round: int) -> State:
        share = gathered.count / self.about.population
        for name, c in self._c.items():
            c.add_(gathered.groups[CONTROL][name], alpha=share)
            if self.eta_g != 1:
                here, mean = computable(current[name]), gathered.mean[name]
                mean.sub_(here).mul_(self.eta_g).add_(here)
        return gathered.mean

    @override
    def down(self) -> dict[str, State]:
        return {CONTROL: self._c}

    @override
    def up_specs(self, model: Specs) -> Specs:
        return {CONTROL: model[CONTROL]}

    @override
    def client(self) -> Client:
        return ScaffoldClient(self.option)

    @override
    def state_dict(self) -> dict[str, Any]:
        return {"c": self._c}

    @override
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._c = taken("scaffold.c", state["c"], self._c)


class ScaffoldClient(GradientTerm):
    """Corrects gradients by c - c_i, and renews c_i."""

    what = "SCAFFOLD"

    def __init__(self, option: Option) -> None:
        super().__init__()
        self._option = option
        self._steps = Steps("SCAFFOLD (option II)", advice=", or set algorithm.option=I")
        self._own: dict[str, Tensor] = {}
        """c_i"""
        self._former: dict[str, Tensor] = {}
        """c_i before the last update: c is the mean of all c_i only if each of them moves with an update that counts."""
        self._change: Mapping[str, Tensor] = {}
        """What c_i changed by in the last update."""
        self._handed: Mapping[str, Mapping[str, Tensor]] = {}
        """The groups of that update, in which others may replace the change after this half; empty once c_i has followed."""
        self._common: Mapping[str, Tensor] = {}
        """c of the round"""
        self._corrections: dict[str, Tensor] = {}
        self._gradient: dict[str, Tensor] = {}
        """Of the whole local loss at the received model, with option I."""

    @override
    def begin(self, local: Local) -> None:
        super().begin(local)
        self._own = self._former = zeros_for(local.parameters)

    @override
    def receive(self, local: Local, model: Message) -> None:
        super().receive(local, model)
        self._follow()
        self._common = model.groups[CONTROL]
        if self._common.keys() != self._own.keys():
            differ = sorted(self._common.keys() ^ self._own.keys())
            raise BadModel(f"SCAFFOLD has control variates of other parameters than {local.worker} trains: {differ[:5]} differ")

    @override
    def on_train_start(self, trainer: Lightning, pl_module: LightningModule) -> None:
        """Make the corrections of the round."""
        super().on_train_start(trainer, pl_module)
        parameters = self.local.parameters
        for name, own in self._own.items():
            to = parameters[name]
            self._corrections[name] = (self._common[name] - own).to(device=to.device, dtype=to.dtype)
        if self._option == "I":
            self._gradient = full_gradient(trainer, pl_module, parameters)
        else:
            self._steps.begin(trainer.optimizers, parameters)

    @override
    def gradient(self, name: str, parameter: Tensor) -> Tensor:
        return self._corrections[name]

    @override
    def on_before_optimizer_step(self, trainer: Lightning, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Correct the gradients, and count the step."""
        super().on_before_optimizer_step(trainer, pl_module, optimizer)
        if self._option == "II":
            self._steps.count(optimizer)

    @override
    def finish(self, local: Local, update: Update) -> None:
        renewed = self._gradient if self._option == "I" else self._means_of_gradients(update.weights)
        self._change = {name: renewed[name] - own for name, own in self._own.items()}
        update.groups[CONTROL] = dict(self._change)
        self._handed = update.groups
        self._former, self._own = self._own, {name: renewed[name] for name in self._own}
        self._corrections.clear()
        super().finish(local, update)

    @override
    def refused(self, local: Local) -> None:
        self._own, self._change, self._handed = self._former, {}, {}

    def _follow(self) -> None:
        """Let c_i move by what was handed up: the update is complete by now."""
        if self._handed:
            handed = self._handed[CONTROL]
            followed = {name: self._former[name] + handed[name] for name, own in self._change.items() if handed[name] is not own}
            self._own, self._change, self._handed = {**self._own, **followed}, {}, {}

    def _means_of_gradients(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """c_i+ of option II."""
        renewed, moved = dict(self._own), self._steps.moved()
        for name in moved:
            dtype = renewed[name].dtype
            way = self.anchor[name].to(dtype) - weights[name].to(device="cpu", dtype=dtype)
            renewed[name] = way.div_(moved[name]).add_(renewed[name]).sub_(self._common[name])
        return renewed

    @override
    def state_dict(self) -> dict[str, Any]:
        self._follow()
        return {"c_i": self._own}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._own = self._former = taken("scaffold.c_i", state_dict["c_i"], self._own)
