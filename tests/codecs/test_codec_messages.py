"""Whole messages through a codec: models on their way down, sums of differences on their way to a mean."""

import subprocess
import sys

import pytest
import torch

from roles.codecs import make_codec
from roles.codecs.messages import pack, restore, unpack
from roles.errors import UnexpectedMessage
from roles.rounds.average import WEIGHTS, WeightedSum
from tests.codecs.messages import specs_of
from transports.message import Message

STATE = {"w": torch.randn(40, 8), "half": torch.randn(300).half(), "steps": torch.tensor(7), "b": torch.randn(3)}
FROZEN = {"base": torch.randn(50)}


def model() -> Message:
    return Message(kind="weights", round=3, scalars={"ticket": "t"}, groups={WEIGHTS: STATE, "frozen": FROZEN}, sender="top-0")


@pytest.mark.parametrize("name", ["bf16", "fp16", "int8"])
def test_a_model_is_unpacked_with_its_types_and_what_is_frozen_keeps_every_bit(name: str) -> None:
    packed = pack(make_codec(name), model(), Message.allocate)
    packed.sender = "top-0"
    assert packed.nbytes < model().nbytes
    plain = unpack(make_codec(name), packed)
    assert (plain.kind, plain.round, plain.sender, dict(plain.scalars)) == ("weights", 3, "top-0", {"ticket": "t"})
    assert {name: specs_of(group) for name, group in plain.groups.items()} == {WEIGHTS: specs_of(STATE), "frozen": specs_of(FROZEN)}
    assert torch.equal(plain.groups["frozen"]["base"], FROZEN["base"])
    assert torch.equal(plain.groups[WEIGHTS]["steps"], STATE["steps"])
    assert torch.allclose(plain.groups[WEIGHTS]["w"], STATE["w"], atol=0.05)


def test_without_a_codec_a_message_stays_itself() -> None:
    message = model()
    assert pack(None, message, Message.allocate) is message
    assert unpack(None, message) is message


@pytest.mark.parametrize("codec", ["bf16", "fp16", None, "int8 with blocks of 32"])
def test_a_model_that_is_not_encoded_as_it_should_be_is_not_expected(codec: str | None) -> None:
    other = None if codec is None else make_codec({"name": "int8", "block": 32} if "int8" in codec else codec)
    message = pack(other, model().packed(), Message.allocate)
    if codec is None:
        # All of it as it is: an int8 codec would have encoded the larger entries.
        assert set(message.groups) == {WEIGHTS, "frozen"}
    with pytest.raises(UnexpectedMessage, match="not encoded as its channel says"):
        unpack(make_codec("int8"), message)


@pytest.mark.parametrize("down", [None, "bf16", "int8"])
def test_a_sum_of_differences_becomes_one_of_weights_with_the_model_that_was_received(down: str | None) -> None:
    below = None if down is None else make_codec(down)
    sent = pack(below, model().packed(), Message.allocate)
    received = unpack(below, pack(below, model().packed(), Message.allocate)).groups[WEIGHTS]
    up = make_codec(["delta", "bf16"])
    total = WeightedSum(specs_of(STATE))
    for weight in (2.0, 5.0):
        update = pack(up, Message(kind="update", round=3, groups={WEIGHTS: received}), Message.allocate, reference=received)
        total.add({WEIGHTS: up.entries(update.groups)}, {"weight": weight, "samples": 1, "merged": False})
    restore(total, up, sent, below)
    for name, value in total.mean().items():
        assert torch.allclose(value.double(), received[name].double(), rtol=1e-6, atol=1e-7), name


def test_what_plan_needs_of_codecs_loads_no_torch() -> None:
    code = "import sys, flame_run.config.codecs, roles.codecs.options, roles.settings; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
