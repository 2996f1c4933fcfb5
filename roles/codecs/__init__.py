"""Codecs: smaller messages. Each is one small class; `roles.codecs.options` says what a configuration may ask for.

One codec serves one direction of a channel. It works on the floating-point entries of a model (float16, bfloat16,
float32, float64); all others, and entries that it would not make smaller, travel as they are.

    codec = make_codec("int8")                         # or {"name": "int8", "block": 64}, or ["delta", "topk", "bf16"]
    encoded = codec.specs(specs)                       # specs: name -> TensorSpec; encoded: group -> name -> TensorSpec
    message = Message.allocate("update", 1, encoded)   # or channel.allocate: what is encoded is written where it is sent from
    codec.encode(state, message.groups, reference)     # reference: the model that was received; only read if codec.relative
    codec.decode(message.groups, out)                  # out: name -> tensor of the entry's type, to be written to

Encoded entries are also added to a sum without a decoded copy: `codec.entries(message.groups)[name].add(total, factor)`.
If `codec.relative`, decoded values are differences to the reference (of the names in `codec.encoded_names(specs)`).
`codec.check(groups, specs)` tells why an encoded update cannot be used, None if it can; `codec.nbytes(specs)` how large it is.
Importing this package loads no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from roles.codecs.codec import Codec
    from roles.codecs.make import codec_of, make_codec

__all__ = ["Codec", "codec_of", "make_codec"]

_HOMES = {"Codec": "roles.codecs.codec", "codec_of": "roles.codecs.make", "make_codec": "roles.codecs.make"}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'roles.codecs' has no attribute {name!r}")
