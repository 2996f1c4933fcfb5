"""What is checked of an update before any of it counts."""

import math
from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor

from roles.rounds.average import WEIGHTS, WeightedSum, computable
from transports.message import Header, Scalar, Specs, TensorSpec

MAX_SAMPLES = 10**12
"""An update that claims more training samples than this, or a larger weight, is refused."""


def check_header(
    header: Header, *, round: int, total: WeightedSum, encoded: Specs | None = None, entries: Collection[str] | None = None
) -> str | None:
    """Why an offered update of `round` cannot be added to `total`, judged by its header alone; None if it can.

    On a channel with a codec everybody sends the groups `encoded`. `entries`: which of the weights its sender exchanges; None: all.
    """
    if header.kind != "update":
        return f"kind {header.kind!r} where an update is expected"
    if header.round != round:
        return f"update of round {header.round} in round {round}"
    reason = _check_scalars(header.scalars, total.names)
    if reason is not None:
        return reason
    merged = bool(header.scalars.get("merged"))
    if merged and encoded is not None:
        return "a sum where an encoded mean is expected"
    expected = (total.sums_specs if merged else total.groups) if encoded is None else encoded
    if entries is not None:
        own = {name: spec for name, spec in expected[WEIGHTS].items() if name in entries}
        expected = {**expected, WEIGHTS: own}
    if set(header.specs) != set(expected):
        return f"tensor groups {sorted(header.specs)} where {sorted(expected)} is expected"
    reasons = (_check_entries(header.specs[group], entries) for group, entries in expected.items())
    return next((reason for reason in reasons if reason is not None), None)


def _check_scalars(scalars: Mapping[str, Scalar], names: Sequence[str]) -> str | None:
    weight, samples, merged = scalars.get("weight"), scalars.get("samples"), scalars.get("merged", False)
    updates = scalars.get("updates", 1)
    if not isinstance(weight, int | float) or isinstance(weight, bool) or not 0 < weight <= MAX_SAMPLES:
        return f"weight {weight!r} is not a number above 0 and up to {MAX_SAMPLES}"
    if not isinstance(samples, int) or isinstance(samples, bool) or not 0 < samples <= MAX_SAMPLES:
        return f"{samples!r} samples: not an integer from 1 to {MAX_SAMPLES}"
    if not isinstance(updates, int) or isinstance(updates, bool) or not 0 < updates <= samples:
        return f"{updates!r} updates: not an integer from 1 to its samples"
    for name in names:
        value = scalars.get(name)
        if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
            return f"{name} {value!r} is not a finite number"
    return None if isinstance(merged, bool) else f"merged {merged!r} is not a truth value"


def _check_entries(found: Mapping[str, TensorSpec], expected: Mapping[str, TensorSpec]) -> str | None:
    missing, extra = sorted(expected.keys() - found.keys()), sorted(found.keys() - expected.keys())
    if missing or extra:
        return f"entries differ: missing {missing[:5]}, unknown {extra[:5]}"
    for name, spec in expected.items():
        if found[name] != spec:
            return f"entry {name!r} is {_show(found[name])}, expected {_show(spec)}"
    return None


def _show(spec: TensorSpec) -> str:
    return f"{str(spec.dtype).removeprefix('torch.')}{list(spec.shape)}"


def check_values(state: Mapping[str, Tensor]) -> str | None:
    """The first entry that is not finite, as a reason; None if all are."""
    for name, value in state.items():
        if (value.is_floating_point() or value.is_complex()) and not _finite(computable(value)):
            return f"entry {name!r} has values that are not finite"
    return None


def _finite(value: Tensor) -> bool:
    # A sum is finite only if each term is, and costs a tenth of looking at each; it may still overflow by itself.
    total = value.sum(dtype=torch.promote_types(value.dtype, torch.float32))
    return bool(torch.isfinite(total)) or bool(torch.isfinite(value).all())
