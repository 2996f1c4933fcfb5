"""What the tests of codecs do again and again: types of a state, a message for it, there and back."""

from collections.abc import Mapping

import torch
from torch import Tensor

from roles.codecs.codec import Codec
from transports.message import Message, TensorSpec

ALL = (
    "bf16",
    "fp16",
    "int8",
    "delta",
    ["delta", "bf16"],
    ["delta", "fp16"],
    ["delta", "int8"],
    "topk",
    ["topk", "bf16"],
    ["topk", "int8"],
)
"""Every codec and combination that an upload may have."""


def specs_of(state: Mapping[str, Tensor]) -> dict[str, TensorSpec]:
    """Types of the entries of a state."""
    return {name: TensorSpec(value.dtype, tuple(value.shape)) for name, value in state.items()}


def encoded(codec: Codec, state: Mapping[str, Tensor], reference: Mapping[str, Tensor] | None = None) -> Message:
    """A message with `state` encoded; relative codecs take `reference`, zeros by default."""
    message = Message.allocate("update", 1, codec.specs(specs_of(state)))
    message.buffer.fill_(0x7B)
    for tensors in message.groups.values():
        for tensor in tensors.values():
            tensor.view(-1).view(torch.uint8).fill_(0x55)
    codec.encode(state, message.groups, reference or {name: torch.zeros_like(value) for name, value in state.items()})
    return message


def decoded(codec: Codec, message: Message, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What `message` stands for, in the types of `state`."""
    out = {name: torch.empty(value.shape, dtype=value.dtype) for name, value in state.items()}
    codec.decode(message.groups, out)
    return out


def there_and_back(codec: Codec, value: Tensor) -> Tensor:
    """One tensor, encoded and decoded."""
    state = {"w": value}
    return decoded(codec, encoded(codec, state), state)["w"]
