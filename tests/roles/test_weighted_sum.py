from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from roles.rounds.average import WEIGHTS, WeightedSum, accumulator_dtype, averaged
from transports.message import TensorSpec

SHAPES = ((), (0,), (3,), (2, 5), (33,))
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
COMPLEX = (torch.complex64, torch.complex128)
COUNTERS = (torch.bool, torch.uint8, torch.uint16, torch.uint32, torch.uint64, torch.int8, torch.int16, torch.int32, torch.int64)
EPSILON = {torch.float64: 1e-12, torch.complex128: 1e-12}
"""Allowed error relative to the largest value of what is summed; 1e-6 for those summed in single precision."""

State = dict[str, torch.Tensor]


def specs_of(state: State) -> dict[str, TensorSpec]:
    return {name: TensorSpec(value.dtype, tuple(value.shape)) for name, value in state.items()}


def random_state(seed: int) -> State:
    """An entry of every dtype and shape."""
    generator = torch.Generator().manual_seed(seed)
    state: State = {}
    for shape in SHAPES:
        for dtype in FLOATS:
            state[f"{dtype}{shape}"] = torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)
        for dtype in COMPLEX:
            state[f"{dtype}{shape}"] = torch.randn(shape, generator=generator, dtype=dtype)
        for dtype in COUNTERS:
            state[f"{dtype}{shape}"] = torch.randint(0, 2, shape, generator=generator).to(dtype)
    return state


def oracle_mean(states: Sequence[State], weights: Sequence[float]) -> dict[str, Any]:
    """The same in NumPy: double precision, all at once."""
    result = {}
    for name, like in states[0].items():
        if like.is_floating_point() or like.is_complex():
            wide = torch.complex128 if like.is_complex() else torch.float64
            stacked = np.stack([state[name].to(wide).numpy() for state in states])
            result[name] = np.tensordot(np.asarray(weights) / np.sum(weights), stacked, axes=1)
        else:
            result[name] = np.max(np.stack([state[name].numpy() for state in states]), axis=0)
    return result


def assert_close(found: State, states: Sequence[State], weights: Sequence[float]) -> None:
    for name, expected in oracle_mean(states, weights).items():
        value = found[name].numpy()
        if not averaged(found[name].dtype):
            np.testing.assert_array_equal(value, expected)
            continue
        largest = max([1.0, *(float(state[name].abs().max()) for state in states if state[name].numel())])
        np.testing.assert_allclose(value, expected, rtol=0, atol=EPSILON.get(found[name].dtype, 1e-6) * largest)


weights_lists = st.lists(st.floats(0.01, 10_000, allow_nan=False), min_size=1, max_size=6)


@settings(max_examples=40, deadline=None)
@given(weights=weights_lists, seed=st.integers(0, 1000))
def test_the_mean_equals_numpy_in_double_precision(weights: list[float], seed: int) -> None:
    states = [random_state(seed * 10 + index) for index in range(len(weights))]
    total = WeightedSum(specs_of(states[0]))
    for state, weight in zip(states, weights, strict=True):
        total.add({WEIGHTS: state}, {"weight": weight, "samples": 3, "merged": False})
    assert_close(total.mean(), states, weights)


def merged_tree(states: list[State], weights: list[float], split: st.DataObject) -> WeightedSum:
    """Sums of sums: the updates in order, cut into random consecutive parts at each level."""
    total = WeightedSum(specs_of(states[0]))
    while states:
        count = split.draw(st.integers(1, len(states)), label="part")
        nested = count > 1 and split.draw(st.booleans(), label="nested")
        part, states = states[:count], states[count:]
        shares, weights = weights[:count], weights[count:]
        if nested:
            below = merged_tree(part, shares, split)
            message = below.message(1)
            scalars = message.scalars
            assert scalars["merged"] is True
            total.add(message.groups, scalars)
        else:
            for state, weight in zip(part, shares, strict=True):
                total.add({WEIGHTS: state}, {"weight": weight, "samples": 1, "merged": False})
    return total


@settings(max_examples=40, deadline=None)
@given(weights=weights_lists, seed=st.integers(0, 1000), split=st.data())
def test_any_tree_of_sums_has_the_mean_of_the_flat_one(weights: list[float], seed: int, split: st.DataObject) -> None:
    states = [random_state(seed * 10 + index) for index in range(len(weights))]
    total = merged_tree(states, weights, split)
    assert total.total == pytest.approx(sum(weights))
    assert total.samples == len(weights)
    assert_close(total.mean(), states, weights)


def test_the_same_calls_give_the_same_bits() -> None:
    def mean() -> State:
        states = [random_state(index) for index in range(5)]
        total = WeightedSum(specs_of(states[0]))
        for index, state in enumerate(states):
            total.add({WEIGHTS: state}, {"weight": 0.1 + index, "samples": 1, "merged": False})
        return total.mean()

    one, other = mean(), mean()
    assert all(one[name].numpy().tobytes() == other[name].numpy().tobytes() for name in one)


def test_one_update_is_its_own_mean() -> None:
    state = random_state(7)
    total = WeightedSum(specs_of(state))
    total.add({WEIGHTS: state}, {"weight": 4.0, "samples": 4, "merged": False})
    mean = total.mean()
    assert all(torch.equal(mean[name].to(value.dtype), value) for name, value in state.items())


def test_updates_are_never_written_to() -> None:
    state = random_state(1)
    before = {name: value.clone() for name, value in state.items()}
    total = WeightedSum(specs_of(state))
    total.add({WEIGHTS: state}, {"weight": 2.0, "samples": 2, "merged": False})
    total.add({WEIGHTS: state}, {"weight": 3.0, "samples": 3, "merged": False})
    total.mean()
    assert all(torch.equal(before[name], value) for name, value in state.items())


def test_total_samples_and_count_are_those_of_the_updates() -> None:
    state = {"w": torch.ones(2)}
    total = WeightedSum(specs_of(state))
    total.add({WEIGHTS: state}, {"weight": 2.5, "samples": 10, "merged": False})
    total.add({WEIGHTS: state}, {"weight": 4.0, "samples": 7, "merged": True})
    assert (total.total, total.samples, total.count) == (6.5, 17, 2)
    message = total.message(9)
    assert (message.kind, message.round) == ("update", 9)
    assert dict(message.scalars) == {"weight": 6.5, "samples": 17, "updates": 2, "merged": True}


def test_the_mean_of_no_updates_is_an_error() -> None:
    with pytest.raises(ZeroDivisionError, match="no updates"):
        WeightedSum({"w": TensorSpec(torch.float32, (1,))}).mean()


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [
        (torch.float16, torch.float32),
        (torch.bfloat16, torch.float32),
        (torch.float8_e4m3fn, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
        (torch.complex32, torch.complex64),
        (torch.complex128, torch.complex128),
        (torch.int64, torch.int64),
        (torch.bool, torch.bool),
    ],
)
def test_sums_are_kept_in_single_precision_at_least(dtype: torch.dtype, expected: torch.dtype) -> None:
    assert accumulator_dtype(dtype) == expected


def test_many_half_precision_updates_do_not_lose_their_small_differences() -> None:
    # 1,000 times 1.0009765625 in float16 itself would stop growing at 2048 and overflow later.
    state = {"w": torch.full((4,), 1.0009765625, dtype=torch.float16)}
    total = WeightedSum(specs_of(state))
    for _ in range(1000):
        total.add({WEIGHTS: state}, {"weight": 100.0, "samples": 100, "merged": False})
    torch.testing.assert_close(total.mean()["w"], torch.full((4,), 1.0009765625), rtol=1e-4, atol=0)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_eight_bit_floats_are_averaged_in_single_precision(dtype: torch.dtype) -> None:
    one, three = torch.ones(3).to(dtype), torch.full((3,), 3.0).to(dtype)
    total = WeightedSum({"w": TensorSpec(dtype, (3,))})
    total.add({WEIGHTS: {"w": one}}, {"weight": 1.0, "samples": 1, "merged": False})
    total.add({WEIGHTS: {"w": three}}, {"weight": 3.0, "samples": 3, "merged": False})
    assert total.mean()["w"].tolist() == [2.5, 2.5, 2.5]


def test_counters_take_the_largest_value_also_beyond_what_a_signed_integer_holds() -> None:
    largest = 2**64 - 1
    total = WeightedSum({"n": TensorSpec(torch.uint64, ()), "b": TensorSpec(torch.bool, ())})
    for number, flag in ((3, False), (largest, True), (5, False)):
        total.add(
            {WEIGHTS: {"n": torch.tensor(number, dtype=torch.uint64), "b": torch.tensor(flag)}},
            {"weight": 1.0, "samples": 1, "merged": False},
        )
    mean = total.mean()
    assert (int(mean["n"].numpy()), bool(mean["b"])) == (largest, True)
