"""The memory of a codec with error feedback: kept, taken back, restored."""

import pytest
import torch

from roles.codecs import make_codec
from tests.codecs.messages import decoded, encoded


def _values(seed: int) -> dict[str, torch.Tensor]:
    return {"w": torch.randn(400, generator=torch.Generator().manual_seed(seed))}


def test_a_codec_goes_on_from_its_state_to_the_same_bits() -> None:
    one, other = make_codec(["topk", "int8"]), make_codec(["topk", "int8"])
    encoded(one, _values(1))
    other.load_state_dict(one.state_dict())
    first, second = encoded(one, _values(2)), encoded(other, _values(2))
    assert torch.equal(first.buffer, second.buffer)


def test_a_restored_memory_is_not_shared_with_what_it_was_restored_from() -> None:
    one, other = make_codec("topk"), make_codec("topk")
    encoded(one, _values(1))
    kept = {name: value.clone() for name, value in one.state_dict()["unsent"].items()}
    other.load_state_dict(one.state_dict())
    encoded(other, _values(2))
    assert torch.equal(one.state_dict()["unsent"]["w"], kept["w"])


def test_what_was_refused_is_remembered_as_well() -> None:
    codec = make_codec({"name": "topk", "fraction": 0.1})
    first = encoded(codec, _values(1))
    codec.take_back(first.groups)
    assert torch.allclose(codec.state_dict()["unsent"]["w"], _values(1)["w"])
    second = encoded(codec, _values(2))
    total = decoded(codec, second, _values(2))["w"] + codec.state_dict()["unsent"]["w"]
    assert torch.allclose(total, _values(1)["w"] + _values(2)["w"], atol=1e-6)


def test_over_many_rounds_every_entry_is_sent() -> None:
    codec = make_codec({"name": "topk", "fraction": 0.05})
    value = {"w": torch.linspace(0.5, 1.0, 200)}
    seen = torch.zeros(200, dtype=torch.bool)
    for _ in range(60):
        seen |= decoded(codec, encoded(codec, value), value)["w"] != 0
    assert bool(seen.all())


def test_codecs_without_feedback_have_no_state() -> None:
    for config in ("bf16", "fp16", "int8", "delta"):
        codec = make_codec(config)
        assert not codec.stateful
        assert codec.state_dict() == {}
        codec.load_state_dict({})
        codec.take_back(encoded(codec, _values(1)).groups)


def test_a_relative_codec_without_a_reference_is_an_error() -> None:
    codec = make_codec("delta")
    message = encoded(codec, _values(1))
    with pytest.raises(ValueError, match="need that model"):
        codec.encode(_values(1), message.groups)
