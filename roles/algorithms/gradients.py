"""Terms of a local loss whose gradient is known: added to gradients, so that the user's module need not know of them."""

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch import Trainer as Lightning
from torch import Tensor, nn
from torch.optim import LBFGS, Optimizer
from typing_extensions import override

from roles.errors import BadModel
from roles.part import Client, Local, Update
from roles.rounds.average import WEIGHTS
from transports.message import Message


def groups_of(optimizers: Sequence[Optimizer], parameters: Mapping[str, nn.Parameter], what: str) -> dict[str, tuple[int, int]]:
    """Name -> which optimizer moves the parameter, and in which of its groups; those that nobody moves are left out.

    Raises:
        BadModel: one parameter is moved by several optimizers.
    """
    places: dict[int, tuple[int, int]] = {}
    for index, optimizer in enumerate(optimizers):
        for number, group in enumerate(optimizer.param_groups):
            for parameter in group["params"]:
                if places.setdefault(id(parameter), (index, number))[0] != index:
                    name = next((name for name, each in parameters.items() if each is parameter), "one")
                    raise BadModel(f"{what} cannot tell whose steps count: parameter {name!r} is moved by several optimizers")
    return {name: places[id(parameter)] for name, parameter in parameters.items() if id(parameter) in places}


class GradientTerm(Client):
    """Base of client halves that add the gradient of a term to that of the loss, before each step of an optimizer.

    Exact for any term whose gradient is known, whatever the optimizer, its momentum, or over how many batches gradients are
    accumulated. Clipping of gradients (Lightning's `gradient_clip_val`) comes after it, so that it sees the gradient of the
    whole objective. A parameter whose gradient the batch does not touch gets that of the term. What the module logs is the
    loss without the term.
    """

    what: ClassVar[str] = "the algorithm"
    """Its name, for messages."""

    def __init__(self) -> None:
        self.anchor: dict[str, Tensor] = {}
        """The received value of each exchanged parameter, as the module has it while it trains."""
        self.local: Local
        """Set by `begin`."""
        self._stepped = False

    @abstractmethod
    def gradient(self, name: str, parameter: Tensor) -> Tensor:
        """What is added to the gradient of the parameter, of its shape and dtype; it is not written to."""

    @property
    def adds(self) -> bool:
        """Whether there is a term at all."""
        return True

    @override
    def begin(self, local: Local) -> None:
        self.local = local

    @override
    def receive(self, local: Local, model: Message) -> None:
        weights = model.groups[WEIGHTS]
        self.anchor = {name: weights[name] for name in local.parameters}

    @override
    def on_train_start(self, trainer: Lightning, pl_module: LightningModule) -> None:
        """Check the optimizers, and bring what was received to where the module is.

        Raises:
            BadModel: a parameter is moved by several optimizers, or one searches along lines of the loss.
        """
        groups_of(trainer.optimizers, self.local.parameters, self.what)
        if any(isinstance(optimizer, LBFGS) for optimizer in trainer.optimizers):
            raise BadModel(f"{self.what} changes gradients and not the loss, which LBFGS compares: use another optimizer")
        self.anchor = {name: _like(value, self.local.parameters[name]) for name, value in self.anchor.items()}
        self._stepped = False

    @override
    @torch.no_grad()
    def on_before_optimizer_step(self, trainer: Lightning, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Add the term to the gradients of what this optimizer moves."""
        self._stepped = True
        if not self.adds:
            return
        for name, parameter in self._moved_by(optimizer):
            term = self.gradient(name, parameter)
            if parameter.grad is None:
                parameter.grad = term.clone()
            elif parameter.grad.is_sparse:
                parameter.grad = term + parameter.grad
            else:
                parameter.grad.add_(term)

    def _moved_by(self, optimizer: Optimizer) -> Iterator[tuple[str, nn.Parameter]]:
        """Each once, also where several names stand for it."""
        names = {id(parameter): name for name, parameter in self.local.parameters.items()}
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                if id(parameter) in names and parameter.requires_grad:
                    yield names[id(parameter)], parameter

    @override
    def on_train_end(self, trainer: Lightning, pl_module: LightningModule) -> None:
        """Bring what was received back to the host.

        Raises:
            BadModel: optimizers stepped where nobody saw it, so that the term was never added.
        """
        if not self._stepped:
            raise BadModel(
                f"{self.what} works where an optimizer steps, and saw no step: with manual optimization, step the "
                "optimizers that `self.optimizers()` returns"
            )
        self.anchor = {name: value.cpu() for name, value in self.anchor.items()}

    @override
    def finish(self, local: Local, update: Update) -> None:
        """Let go of what was received: its memory is used for another model."""
        self.anchor = {}


def _like(value: Tensor, parameter: Tensor) -> Tensor:
    return value.to(device=parameter.device, dtype=parameter.dtype)
