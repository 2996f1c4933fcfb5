"""Round trips of single tensors: the error that each codec promises, and what it leaves alone."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import Tensor

from roles.codecs import make_codec
from roles.codecs.codec import COMPUTED
from roles.codecs.int8 import SCALES
from roles.codecs.topk import INDICES
from tests.codecs.messages import ALL, decoded, encoded, specs_of, there_and_back

SIZES = st.integers(130, 300)
FINITE = st.floats(width=32, allow_nan=False, allow_infinity=False)
VECTORS = arrays(np.float32, SIZES, elements=FINITE).map(torch.from_numpy)
MODEST = arrays(np.float32, SIZES, elements=st.floats(-(2.0**20), 2.0**20, width=32)).map(torch.from_numpy)
QUIET = settings(deadline=None, max_examples=60)


def test_bf16_is_the_nearest_bfloat16_with_a_relative_error_of_at_most_2_to_the_minus_8() -> None:
    @QUIET
    @given(VECTORS)
    def check(value: Tensor) -> None:
        back = there_and_back(make_codec("bf16"), value).double()
        wide = value.double()
        largest = torch.finfo(torch.bfloat16).max
        normal = (wide.abs() >= torch.finfo(torch.bfloat16).tiny) & (wide.abs() <= largest)
        assert bool(((back - wide).abs() <= 2.0**-8 * wide.abs())[normal].all())
        assert bool((back.abs() <= largest).all())

    check()


def test_fp16_has_a_relative_error_of_at_most_2_to_the_minus_11_and_saturates_beyond_its_range() -> None:
    @QUIET
    @given(VECTORS)
    def check(value: Tensor) -> None:
        back = there_and_back(make_codec("fp16"), value).double()
        wide = value.double()
        normal = (wide.abs() >= torch.finfo(torch.float16).tiny) & (wide.abs() <= 65504)
        assert bool(((back - wide).abs() <= 2.0**-11 * wide.abs())[normal].all())
        beyond = wide.abs() > 65504
        assert torch.equal(back[beyond], wide[beyond].sign() * 65504)

    check()


@pytest.mark.parametrize("block", [8, 13, 64])
def test_int8_is_off_by_at_most_half_a_scale_in_every_block(block: int) -> None:
    @QUIET
    @given(VECTORS)
    def check(value: Tensor) -> None:
        codec = make_codec({"name": "int8", "block": block})
        message = encoded(codec, {"w": value})
        back = decoded(codec, message, {"w": value})["w"]
        scales = message.groups[f"weights.float32.{SCALES}"]["w"].double()
        for at, scale in enumerate(scales):
            mine = slice(at * block, (at + 1) * block)
            largest = value[mine].double().abs().max()
            assert float(scale) <= max(float(largest) / 127, torch.finfo(torch.float32).tiny) * (1 + 1e-6)
            assert bool(((back[mine].double() - value[mine].double()).abs() <= scale / 2 * (1 + 1e-4)).all())

    check()


def test_int8_keeps_blocks_of_zeros_and_the_largest_value_of_a_block() -> None:
    value = torch.zeros(512)
    value[300] = -3.5
    back = there_and_back(make_codec({"name": "int8", "block": 128}), value)
    assert torch.allclose(back, value, rtol=1e-6, atol=0)


def test_int8_survives_the_largest_and_the_smallest_floats() -> None:
    for dtype in (torch.float32, torch.float64):
        info = torch.finfo(dtype)
        value = torch.tensor([info.max, -info.max, info.tiny, info.smallest_normal / 4, 0.0] * 20, dtype=dtype)
        for codec in (make_codec("int8"), make_codec({"name": "int8", "block": 10})):
            message = encoded(codec, {"w": value})
            assert codec.check(message.groups, specs_of({"w": value})) is None
            back = decoded(codec, message, {"w": value})["w"]
            assert bool(back.isfinite().all())
            assert back[0] == pytest.approx(info.max, rel=1e-5)


def test_topk_keeps_the_largest_entries_exactly_and_drops_the_others() -> None:
    @QUIET
    @given(VECTORS, st.sampled_from([0.01, 0.1, 0.3]))
    def check(value: Tensor, fraction: float) -> None:
        codec = make_codec({"name": "topk", "fraction": fraction})
        message = encoded(codec, {"w": value})
        kept = message.groups[f"weights.float32.{INDICES}"]["w"].long()
        assert len(kept) == max(1, round(fraction * len(value)))
        assert bool((kept[1:] > kept[:-1]).all())
        back = decoded(codec, message, {"w": value})["w"]
        assert torch.equal(back[kept], value[kept])
        dropped = torch.ones(len(value), dtype=torch.bool).index_fill_(0, kept, value=False)
        assert not bool(back[dropped].any())
        assert bool(value[kept].abs().min() >= value[dropped].abs().max())

    check()


def test_topk_takes_the_first_of_equal_entries() -> None:
    value = torch.ones(100)
    value[50] = -2
    message = encoded(make_codec({"name": "topk", "fraction": 0.03}), {"w": value})
    assert message.groups["weights.float32.indices"]["w"].tolist() == [0, 1, 50]


def test_a_delta_is_the_difference_to_the_reference() -> None:
    @QUIET
    @given(MODEST, st.integers(0, 2**32 - 1))
    def check(value: Tensor, seed: int) -> None:
        reference = torch.randn(len(value), generator=torch.Generator().manual_seed(seed))
        codec = make_codec("delta")
        message = encoded(codec, {"w": value}, {"w": reference})
        assert torch.equal(decoded(codec, message, {"w": value})["w"], value - reference)

    check()


@pytest.mark.parametrize("config", ALL, ids=str)
def test_what_was_sent_and_what_is_remembered_add_up_to_what_was_given(config: Any) -> None:
    codec = make_codec(config)
    if not codec.stateful:
        assert codec.state_dict() == {}
        return
    generator = torch.Generator().manual_seed(5)
    given_sum, sent_sum = torch.zeros(30, 40, dtype=torch.float64), torch.zeros(30, 40, dtype=torch.float64)
    for _ in range(12):
        value, reference = torch.randn(30, 40, generator=generator), torch.randn(30, 40, generator=generator)
        message = encoded(codec, {"w": value}, {"w": reference})
        given_sum += (value - reference).double()
        sent_sum += decoded(codec, message, {"w": value})["w"].double()
    unsent = codec.state_dict()["unsent"]["w"].double()
    assert float((sent_sum + unsent - given_sum).abs().max()) < 1e-4
    assert float(unsent.abs().max()) < float(given_sum.abs().max()) * 3


@pytest.mark.parametrize("config", ALL, ids=str)
@pytest.mark.parametrize("dtype", list(COMPUTED), ids=str)
def test_every_float_type_and_layout_goes_there_and_back(config: Any, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(1)
    base = torch.randn(6, 4, 50, generator=generator).to(dtype)
    state = {"plain": base, "turned": base.permute(2, 0, 1), "striped": base[::2, :, ::3], "wide": base.expand(2, 6, 4, 50)}
    codec = make_codec(config)
    message = encoded(codec, state)
    assert codec.check(message.groups, specs_of(state)) is None
    assert {group: specs_of(tensors) for group, tensors in message.groups.items()} == codec.specs(specs_of(state))
    for name, value in decoded(codec, message, state).items():
        assert value.shape == state[name].shape
        kept = value != 0 if codec.stateful else torch.ones_like(value, dtype=torch.bool)
        assert torch.allclose(value[kept].double(), state[name][kept].double(), rtol=2e-2, atol=2e-2)
        assert bool(kept.any())


@pytest.mark.parametrize("config", ALL, ids=str)
def test_whole_numbers_truth_values_complex_and_8_bit_floats_travel_as_they_are(config: Any) -> None:
    state = {
        "counter": torch.tensor(2**53 + 1),
        "bytes": torch.arange(300).to(torch.uint8),
        "wide": torch.arange(300, dtype=torch.int64) * 2**40,
        "mask": torch.arange(300) % 3 == 0,
        "phase": torch.randn(300, dtype=torch.complex64),
        "tiny": torch.randn(300).to(torch.float8_e4m3fn),
        "none": torch.empty(0, 7),
    }
    codec = make_codec(config)
    message = encoded(codec, state)
    assert set(message.groups) == {"weights"}
    assert codec.encoded_names(specs_of(state)) == []
    assert codec.check(message.groups, specs_of(state)) is None
    for name, value in decoded(codec, message, state).items():
        assert value.dtype == state[name].dtype
        assert torch.equal(value.view(-1).view(torch.uint8), state[name].view(-1).view(torch.uint8))


@pytest.mark.parametrize("config", [each for each in ALL if each != "delta"], ids=str)
def test_an_entry_that_would_not_get_smaller_travels_as_it_is(config: Any) -> None:
    codec = make_codec(config)
    state = {"scalar": torch.tensor(1.2345678), "half": torch.randn(300).half(), "brain": torch.randn(300).bfloat16()}
    specs = specs_of(state)
    for name, spec in specs.items():
        small = codec.nbytes({name: spec})
        assert small <= spec.nbytes
        if small == spec.nbytes:
            value = state[name]
            assert torch.equal(there_and_back(codec, value), value)


def test_a_scalar_tensor_can_be_a_delta() -> None:
    codec = make_codec("delta")
    message = encoded(codec, {"w": torch.tensor(3.5)}, {"w": torch.tensor(1.5)})
    assert decoded(codec, message, {"w": torch.tensor(0.0)})["w"].item() == 2.0


@pytest.mark.parametrize("config", ALL, ids=str)
def test_adding_an_encoded_entry_is_adding_its_decoded_values(config: Any) -> None:
    for size in (64, 2**18 + 77):
        value = torch.randn(size, generator=torch.Generator().manual_seed(size))
        codec = make_codec(config)
        message = encoded(codec, {"w": value})
        back = decoded(codec, message, {"w": value})["w"].numpy().astype(np.float64)
        total = torch.full((size,), 0.25)
        entry = codec.entries(message.groups)["w"]
        assert not isinstance(entry, Tensor)
        entry.add(total, 3.0)
        assert np.allclose(total.numpy(), 0.25 + 3.0 * back, rtol=1e-6, atol=1e-6)
