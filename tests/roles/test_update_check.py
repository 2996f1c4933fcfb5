from collections.abc import Mapping
from typing import Any

import pytest
import torch

from roles.rounds.average import WeightedSum
from roles.rounds.check import MAX_SAMPLES, check_header, check_values
from transports.message import Header, Message, TensorSpec

STATE = {"w": torch.ones(2, 3, dtype=torch.float16), "n": torch.tensor(4)}
SPECS = {name: TensorSpec(value.dtype, tuple(value.shape)) for name, value in STATE.items()}
GOOD: Mapping[str, Any] = {"weight": 3.0, "samples": 3, "merged": False}


def check(header: Header) -> str | None:
    return check_header(header, round=2, total=WeightedSum(SPECS))


def update(state: Mapping[str, torch.Tensor] = STATE, *, kind: str = "update", round: int = 2, **scalars: Any) -> Header:
    chosen = {name: value for name, value in {**GOOD, **scalars}.items() if value is not None}
    return Message(kind, round, scalars=chosen, groups={"weights": state}).header


def test_a_trainers_update_and_a_middle_aggregators_sum_are_taken() -> None:
    assert check(update()) is None
    assert check(update(weight=1, samples=MAX_SAMPLES)) is None
    assert check(update(merged=None)) is None
    assert check(update({**STATE, "w": STATE["w"].float()}, merged=True, weight=7.5)) is None


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        (update(kind="gossip"), "kind 'gossip' where an update is expected"),
        (update(round=1), "update of round 1 in round 2"),
        (update(round=3), "update of round 3 in round 2"),
        (update(weight=None), "weight None is not a number above 0"),
        (update(weight=0), "weight 0 is not"),
        (update(weight=-1.0), "weight -1.0 is not"),
        (update(weight=float("nan")), "weight nan is not"),
        (update(weight=float("inf")), "weight inf is not"),
        (update(weight=1e300), "weight 1e+300 is not"),
        (update(weight=True), "weight True is not"),
        (update(weight="3"), "weight '3' is not"),
        (update(samples=0), "0 samples: not an integer from 1"),
        (update(samples=-5), "-5 samples"),
        (update(samples=MAX_SAMPLES + 1), "samples: not an integer"),
        (update(samples=2.5), "2.5 samples"),
        (update(samples=True), "True samples"),
        (update(samples=None), "None samples"),
        (update(merged="yes"), "merged 'yes' is not a truth value"),
        (update({"w": STATE["w"]}), "entries differ: missing ['n'], unknown []"),
        (update({**STATE, "x": torch.ones(1)}), "entries differ: missing [], unknown ['x']"),
        (update({**STATE, "w": torch.ones(3, 2).half()}), "entry 'w' is float16[3, 2], expected float16[2, 3]"),
        (update({**STATE, "w": torch.ones(2, 3)}), "entry 'w' is float32[2, 3], expected float16[2, 3]"),
        (update(merged=True), "entry 'w' is float16[2, 3], expected float32[2, 3]"),
        (update({**STATE, "n": torch.tensor(4.0)}), "entry 'n' is float32[], expected int64[]"),
    ],
)
def test_a_bad_update_is_refused_by_its_header_with_the_reason(header: Header, reason: str) -> None:
    found = check(header)
    assert found is not None
    assert reason in found


@pytest.mark.parametrize("groups", [{}, {"frozen": STATE}, {"weights": STATE, "frozen": {}}, {"weights": STATE, "extra": STATE}])
def test_an_update_holds_the_weights_and_nothing_else(groups: Mapping[str, Mapping[str, torch.Tensor]]) -> None:
    found = check(Message("update", 2, scalars=GOOD, groups=groups).header)
    assert found is not None
    assert found.startswith("tensor groups")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64, torch.float8_e5m2])
def test_values_that_are_not_finite_are_found_in_every_floating_type(value: float, dtype: torch.dtype) -> None:
    good, bad = torch.ones(5), torch.ones(5)
    bad[3] = value
    assert check_values({"a": good.to(dtype)}) is None
    assert check_values({"a": good.to(dtype), "b": bad.to(dtype)}) == "entry 'b' has values that are not finite"


def test_counters_are_always_finite() -> None:
    assert check_values({"n": torch.tensor(2**62), "b": torch.tensor([True]), "e": torch.empty(0)}) is None
