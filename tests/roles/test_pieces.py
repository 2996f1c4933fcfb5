"""Updates added piece by piece make the same sum, to the bit, and a bad one never stays in it."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from roles.rounds.average import WEIGHTS, WeightedSum
from roles.rounds.pieces import Adding
from transports.message import ALIGNMENT, Message, TensorSpec

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64, torch.int64, torch.uint8, torch.bool]
State = dict[str, torch.Tensor]


def random_state(shapes: Sequence[tuple[tuple[int, ...], torch.dtype]], seed: int) -> State:
    generator = torch.Generator().manual_seed(seed)
    values = [(torch.rand(shape, generator=generator) * 8 - 4).to(dtype) for shape, dtype in shapes]
    return {f"entry{index}": value for index, value in enumerate(values)}


def update(state: State, weight: float) -> Message:
    return Message("update", 1, scalars={"weight": weight, "samples": 3, "merged": False}, groups={WEIGHTS: state}).packed()


def add_in_pieces(total: WeightedSum, message: Message, cuts: list[int]) -> str | None:
    adding = Adding(total, message.header)
    ends = sorted({min(cut * ALIGNMENT, message.nbytes) for cut in cuts} | {message.nbytes})
    start = 0
    for end in ends:
        # Bytes as they come off a network: not part of a larger buffer.
        reason = adding.take(start, torch.from_numpy(message.buffer[start:end].numpy().copy()))
        if reason is not None:
            return reason
        start = end
    adding.end()
    return None


shapes = st.lists(st.tuples(st.lists(st.integers(0, 9), max_size=3).map(tuple), st.sampled_from(DTYPES)), min_size=1, max_size=6)


@given(shapes=shapes, weights=st.lists(st.integers(1, 100), min_size=1, max_size=4), cuts=st.lists(st.integers(1, 40), max_size=6))
@settings(deadline=None, max_examples=200)
def test_pieces_make_the_same_sum_to_the_bit(shapes, weights, cuts):
    specs = {f"entry{index}": TensorSpec(dtype, shape) for index, (shape, dtype) in enumerate(shapes)}
    whole, parts = WeightedSum(specs), WeightedSum(specs)
    for seed, weight in enumerate(weights):
        state = random_state(shapes, seed)
        whole.add({WEIGHTS: state}, {"weight": float(weight), "samples": 3})
        assert add_in_pieces(parts, update(state, float(weight)), cuts) is None
    assert (whole.total, whole.samples, whole.count) == (parts.total, parts.samples, parts.count)
    for name, value in whole.memory.groups[WEIGHTS].items():
        assert np.array_equal(bits(value), bits(parts.memory.groups[WEIGHTS][name]))


def bits(value: torch.Tensor) -> np.ndarray[Any, Any]:
    return value.reshape(-1).view(torch.uint8).numpy()


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_bad_value_in_a_late_piece_is_named_and_the_sum_can_be_made_anew(bad):
    shape = [((1000,), torch.float32), ((10,), torch.float32)]
    specs = {f"entry{index}": TensorSpec(dtype, shape) for index, (shape, dtype) in enumerate(shape)}
    good, spoilt = random_state(shape, 1), random_state(shape, 2)
    spoilt["entry1"][3] = bad
    total, expected = WeightedSum(specs), WeightedSum(specs)
    assert add_in_pieces(total, update(good, 2.0), [5]) is None
    assert add_in_pieces(total, update(spoilt, 5.0), [5]) == "entry 'entry1' has values that are not finite"
    total.clear()
    assert add_in_pieces(total, update(good, 2.0), [7]) is None
    expected.add({WEIGHTS: good}, {"weight": 2.0, "samples": 3, "merged": False})
    for name, value in expected.memory.groups[WEIGHTS].items():
        assert torch.equal(value, total.memory.groups[WEIGHTS][name])
    assert total.count == 1
