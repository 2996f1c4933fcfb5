"""Whole messages through a codec: what a role sends is packed, what it receives is unpacked. Without a codec nothing happens."""

from collections.abc import Mapping
from typing import Protocol

from torch import Tensor

from roles import tags
from roles.codecs.codec import Codec
from roles.codecs.make import codec_of
from roles.codecs.options import DISTRIBUTE, UPLOAD
from roles.context import Context
from roles.errors import UnexpectedMessage
from roles.rounds.average import WEIGHTS, WeightedSum
from transports.message import Message, Scalar, Specs, TensorSpec

DIRECTION = {tags.UPLOAD: UPLOAD, tags.AGGREGATE: UPLOAD, tags.DISTRIBUTE: DISTRIBUTE, tags.FETCH: DISTRIBUTE}
"""Function tag -> the direction in which weights travel through it."""


class Allocate(Protocol):
    """Makes a packed message with uninitialised tensors, such as `Channel.allocate`."""

    def __call__(self, kind: str, round: int, specs: Specs, *, scalars: Mapping[str, Scalar] | None = None) -> Message:
        """See `transports.base.Channel.allocate`."""


def codec_for(context: Context, tag: str) -> Codec | None:
    """The codec of the channel and the direction that the function `tag` serves for this worker; None without one."""
    channels = context.tags.get(tag, ())
    return codec_of(context.settings, channels[0], DIRECTION[tag]) if channels else None


def pack(
    codec: Codec | None,
    message: Message,
    allocate: Allocate,
    *,
    specs: Mapping[str, TensorSpec] | None = None,
    reference: Mapping[str, Tensor] | None = None,
) -> Message:
    """`message` with its weights encoded, in memory of `allocate`; itself without a codec.

    Args:
        codec: of the channel that it goes to.
        message: its group `weights` is encoded, other groups are copied.
        allocate: makes the message that is sent.
        specs: types of the model's entries, where those of the message have more bits.
        reference: weights of the model that was received, for differences.
    """
    if codec is None:
        return message
    others = {group: tensors for group, tensors in message.groups.items() if group != WEIGHTS}
    types = codec.specs(specs or message.specs[WEIGHTS])
    packed = allocate(message.kind, message.round, types | _specs(message, others), scalars=message.scalars)
    codec.encode(message.groups[WEIGHTS], {group: tensors for group, tensors in packed.groups.items() if group in types}, reference)
    _copy(others, packed)
    return packed


def unpack(codec: Codec | None, message: Message) -> Message:
    """`message`, a model that was sent down, with its weights decoded; itself without a codec.

    Raises:
        UnexpectedMessage: its tensors are not what the codec writes.
    """
    if codec is None:
        return message
    encoded = {group: tensors for group, tensors in message.groups.items() if group.split(".")[0] == WEIGHTS}
    others = {group: tensors for group, tensors in message.groups.items() if group not in encoded}
    found = _specs(message, encoded)
    specs = codec.plain_specs(found)
    if codec.specs(specs) != found:
        raise UnexpectedMessage(f"{message.sender} sent a model of round {message.round} that is not encoded as its channel says")
    plain = Message.allocate(message.kind, message.round, {WEIGHTS: specs, **_specs(message, others)}, scalars=message.scalars)
    plain.sender = message.sender
    codec.decode(encoded, plain.groups[WEIGHTS])
    _copy(others, plain)
    message.release()
    return plain


def restore(total: WeightedSum, codec: Codec | None, sent: Message, down: Codec | None) -> None:
    """Where `total` is a sum of differences, turn it into that of weights: add the model that the ends received.

    Args:
        total: the sum of all updates of the round, complete.
        codec: of the updates.
        sent: the model as it was sent to the ends.
        down: the codec of that.
    """
    if codec is None or not codec.relative or total.count == 0:
        return
    received = sent.groups[WEIGHTS] if down is None else down.entries(sent.groups)
    for name in codec.encoded_names(total.specs):
        entry = received[name]
        total.shift(name, entry if isinstance(entry, Tensor) else entry.value(total.specs[name].shape))


def _specs(message: Message, groups: Mapping[str, object]) -> dict[str, Mapping[str, TensorSpec]]:
    return {group: specs for group, specs in message.specs.items() if group in groups}


def _copy(groups: Mapping[str, Mapping[str, Tensor]], target: Message) -> None:
    for group, tensors in groups.items():
        for name, tensor in tensors.items():
            target.groups[group][name].copy_(tensor)
