"""How far the steps of a local optimizer went: counted where the optimizer steps, with the learning rate it has then."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn
from torch.optim import SGD, Optimizer

from roles.algorithms.gradients import groups_of
from roles.errors import BadModel


class UnitPath:
    """How far SGD moves a number whose gradient is 1 all the time, against the gradient: eta ||a||_1 of the FedNova paper.

    SGD is linear in the gradients, so that the movement of a parameter, divided by this, is a mean of its gradients: with
    weights a_k that come from momentum, dampening, Nesterov's rule, the schedule of the learning rate, and a proximal term.
    Plain SGD of a constant rate eta moves eta times the number of steps. Weight decay counts as part of the gradient.

    Args:
        mu: weight of a proximal term (mu / 2) ||w - w_t||^2 that was added to the loss.
    """

    def __init__(self, mu: float = 0.0) -> None:
        self._mu = mu
        self._buffer: float | None = None
        self.moved = 0.0

    def step(self, group: Mapping[str, Any]) -> None:
        """One step with the options that a parameter group of `torch.optim.SGD` has at the moment."""
        direction = gradient = 1.0 - self._mu * self.moved
        momentum = float(group["momentum"])
        if momentum:
            kept = gradient if self._buffer is None else momentum * self._buffer + (1 - float(group["dampening"])) * gradient
            direction = gradient + momentum * kept if group["nesterov"] else kept
            self._buffer = kept
        self.moved += float(group["lr"]) * direction


class Steps:
    """Counts the steps of one round.

    Args:
        what: the algorithm, for messages.
        advice: what a user of another optimizer can do.
        mu: see `UnitPath`.
    """

    def __init__(self, what: str, *, advice: str = "", mu: float = 0.0) -> None:
        self._what = what
        self._advice = advice
        self._mu = mu
        self._places: dict[str, tuple[int, int]] = {}
        self._optimizers: Sequence[Optimizer] = ()
        self._paths: dict[tuple[int, int], UnitPath] = {}

    def begin(self, optimizers: Sequence[Optimizer], parameters: Mapping[str, nn.Parameter]) -> None:
        """A new round.

        Raises:
            BadModel: it cannot be told how far these optimizers go.
        """
        self._optimizers, self._paths = list(optimizers), {}
        self._places = groups_of(self._optimizers, parameters, self._what)
        for optimizer in {index: self._optimizers[index] for index, _ in self._places.values()}.values():
            self._check(optimizer)

    def count(self, optimizer: Optimizer) -> None:
        """`optimizer` is about to step."""
        index = next(index for index, each in enumerate(self._optimizers) if each is optimizer)
        for number, group in enumerate(optimizer.param_groups):
            self._paths.setdefault((index, number), UnitPath(self._mu)).step(group)

    def moved(self) -> dict[str, float]:
        """Name of each parameter that an optimizer moves -> how far a unit gradient would have moved it, above 0.

        Ask once in a round: a round that is not trained has no steps of the last one.

        Raises:
            BadModel: no step was seen.
        """
        found = {name: self._paths[place].moved for name, place in self._places.items() if place in self._paths}
        found = {name: moved for name, moved in found.items() if moved > 0}
        self._paths = {}
        if not found:
            raise BadModel(
                f"{self._what} counts the steps of optimizers and saw none: train on at least one batch, with a learning rate "
                "above 0; with manual optimization, step the optimizers that `self.optimizers()` returns"
            )
        return found

    def one(self) -> float:
        """The same for all parameters as one number.

        Raises:
            BadModel: no step was seen, or parameters were moved in different ways.
        """
        moved = self.moved()
        least, most = min(moved, key=lambda name: moved[name]), max(moved, key=lambda name: moved[name])
        if moved[most] - moved[least] > 1e-9 * moved[most]:
            raise BadModel(
                f"{self._what} divides by how far an optimizer goes: {least!r} goes {moved[least]:g} and {most!r} {moved[most]:g}; "
                "give all exchanged parameters one learning rate, one momentum and the same number of steps"
            )
        return moved[least]

    def _check(self, optimizer: Optimizer) -> None:
        if not isinstance(optimizer, SGD):
            raise BadModel(
                f"{self._what} divides by how far an optimizer goes, which is known for torch.optim.SGD and not for "
                f"{type(optimizer).__name__}: use SGD in configure_optimizers{self._advice}"
            )
        if any(group["maximize"] for group in optimizer.param_groups):
            raise BadModel(f"{self._what} needs a loss that is minimised: an optimizer has maximize=True")
        if any(state.get("momentum_buffer") is not None for state in optimizer.state.values()):
            raise BadModel(f"{self._what} needs momentum that starts anew in each round: set job.optimizer=reset")
