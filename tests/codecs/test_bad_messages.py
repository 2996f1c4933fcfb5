"""Encoded updates with values that cannot be used: told before any of them counts."""

import math
from typing import Any

import pytest
import torch

from roles.codecs import make_codec
from tests.codecs.messages import ALL, encoded, specs_of
from transports.message import Message

STATE = {"first": torch.randn(40, 8, generator=torch.Generator().manual_seed(3)), "second": torch.randn(64)}
SPECS = specs_of(STATE)


def _part(message: Message, part: str) -> torch.Tensor:
    return message.groups[f"weights.float32.{part}"]["second"]


@pytest.mark.parametrize("config", ALL, ids=str)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_before_is_refused_after(config: Any, bad: float) -> None:
    codec = make_codec(config)
    value = STATE["second"].clone()
    value[17] = bad
    message = encoded(codec, {**STATE, "second": value})
    reason = codec.check(message.groups, SPECS)
    assert reason is not None
    assert "'second'" in reason
    assert "not finite" in reason


@pytest.mark.parametrize("config", [each for each in ALL if "topk" in str(each)], ids=str)
def test_what_is_not_finite_is_not_remembered(config: Any) -> None:
    codec = make_codec(config)
    encoded(codec, STATE)
    before = codec.state_dict()["unsent"]["second"].clone()
    encoded(codec, {**STATE, "second": torch.full((64,), math.nan)})
    assert torch.equal(codec.state_dict()["unsent"]["second"], before)


@pytest.mark.parametrize("scale", [math.nan, math.inf, -math.inf, -1.0, 1e38])
def test_a_scale_that_decodes_to_nonsense_is_refused(scale: float) -> None:
    codec = make_codec("int8")
    message = encoded(codec, STATE)
    _part(message, "scales")[0] = scale
    assert "'second' has scales" in (codec.check(message.groups, SPECS) or "")


@pytest.mark.parametrize("config", ["topk", ["topk", "int8"]], ids=str)
@pytest.mark.parametrize(("at", "index"), [(0, -1), (-1, 64), (-1, 2**31 - 1), (1, 0), (2, 1)])
def test_an_index_outside_of_the_entry_or_out_of_order_or_twice_is_refused(config: Any, at: int, index: int) -> None:
    codec = make_codec(config)
    message = encoded(codec, STATE)
    indices = _part(message, "indices")
    indices.copy_(torch.arange(len(indices)))
    assert codec.check(message.groups, SPECS) is None
    indices[at] = index
    assert "'second' has indices" in (codec.check(message.groups, SPECS) or "")


def test_an_entry_that_travels_as_it_is_is_looked_at_too() -> None:
    codec = make_codec("int8")
    for dtype in (torch.complex64, torch.float8_e5m2, torch.float32):
        message = encoded(codec, {**STATE, "other": torch.tensor(math.nan).to(dtype)})
        reason = codec.check(message.groups, SPECS)
        assert reason == "entry 'other' has values that are not finite"
