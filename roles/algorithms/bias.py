"""Group bias of a binary classifier: a / b - c / d, with sums of one term per sample."""

from dataclasses import dataclass
from typing import Any, Final, Literal, get_args

import torch
from torch import Tensor

from roles.errors import BadModel

Fairness = Literal["SP", "EOP", "CAL"]
FAIRNESS: Final[tuple[Fairness, ...]] = get_args(Fairness)
Penalty = Literal["l2", "id"]
PENALTIES: Final[tuple[Penalty, ...]] = get_args(Penalty)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sensitive:
    """Where the sensitive attribute of a sample stands; its values are 0 and 1. One of the two."""

    feature: int | None = None
    """Column of x, the first item of a batch."""
    item: int | None = None
    """Item of a batch (x, y, ...), from 2."""

    def of(self, batch: Any) -> Tensor:
        """The attribute of each sample of `batch`, bool of shape (B,).

        Raises:
            BadModel: it is not there, or has other values than 0 and 1.
        """
        if not isinstance(batch, list | tuple) or len(batch) <= max(1, self.item or 0):
            wanted = "(x, y)" if self.item is None else f"(x, y, ...) with an item {self.item}"
            raise BadModel(f"FedGFT needs batches {wanted}, not {_shown(batch)}")
        if self.item is not None:
            return _binary(batch[self.item], f"item {self.item} of a batch, the sensitive attribute,")
        x = batch[0]
        if not isinstance(x, Tensor) or x.ndim < 2 or not -x.shape[1] <= (self.feature or 0) < x.shape[1]:  # noqa: PLR2004 - (B, F)
            raise BadModel(f"FedGFT finds no column {self.feature} in x, {_shown(x)}: set algorithm.sensitive_feature")
        return _binary(x[:, self.feature], f"column {self.feature} of x, the sensitive attribute,")


def positives(outputs: Any) -> Tensor:
    """The probability of class 1, float64 of shape (B,), from one logit a sample or from those of two classes.

    Raises:
        BadModel: the outputs are neither.
    """
    if isinstance(outputs, Tensor) and (outputs.ndim == 1 or tuple(outputs.shape[1:]) == (1,)):
        return outputs.double().reshape(-1).sigmoid()
    if isinstance(outputs, Tensor) and tuple(outputs.shape[1:]) == (2,):
        return outputs.double().softmax(1)[:, 1]
    raise BadModel(f"FedGFT needs a binary classifier, one logit or two a sample; the module gives {_shown(outputs)}")


def terms(fair: Fairness, probability: Tensor, targets: Any, group: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """a, b, c, d of a batch: sums over its samples, float64 scalars. Group 0 makes a and b, group 1 c and d.

    SP: a is the sum of p, b the number of samples. EOP: the same over samples with y = 1. CAL: a is the sum of p where
    y = 1, b that of p.

    Args:
        fair: which bias.
        probability: p of class 1, float64 (B,).
        targets: y, 0 or 1, (B,) or (B, 1).
        group: the sensitive attribute, bool (B,).

    Raises:
        BadModel: other values of y.
    """
    positive = _binary(targets, "y")
    counted = torch.ones_like(probability) if fair == "SP" else positive.to(probability)
    upper = probability * counted
    lower = probability if fair == "CAL" else counted
    found = [(each * mask).sum() for mask in (~group, group) for each in (upper, lower)]
    return found[0], found[1], found[2], found[3]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bias:
    """The terms of all data, each divided by the number of samples; b and d are above 0."""

    a: float
    b: float
    c: float
    d: float

    @property
    def value(self) -> float:
        """F = a / b - c / d, from -1 to 1."""
        return self.a / self.b - self.c / self.d

    def slope(self, penalty: Penalty, gamma: float | None) -> float:
        """The factor gamma J'(F): F for `l2`, its sign for `id`, times gamma, or |2 F| where that is None."""
        value = self.value
        sign = float(value > 0) - float(value < 0)
        return (value if penalty == "l2" else sign) * (abs(2 * value) if gamma is None else gamma)

    def linear(self, a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
        """What the gradient of F is that of, for samples with these sums of terms: F to the first order at this model."""
        return (a - self.a / self.b * b) / self.b - (c - self.c / self.d * d) / self.d


def _binary(values: Any, what: str) -> Tensor:
    if isinstance(values, Tensor):
        flat = values.detach().reshape(-1)
        ones = flat == 1
        if bool((ones | (flat == 0)).all()):
            return ones
    raise BadModel(f"FedGFT: {what} must be 0 or 1 in each sample; found {_shown(values)}")


def _shown(value: Any) -> str:
    if isinstance(value, Tensor):
        some = value.detach().reshape(-1)[:3].tolist()
        return f"{str(value.dtype).removeprefix('torch.')} of shape {tuple(value.shape)}, e.g. {some}"
    return f"a {type(value).__name__}" + (f" of {len(value)}" if isinstance(value, list | tuple) else "")
