"""Builds codecs from their options."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from roles.codecs.cast import Cast
from roles.codecs.chain import Chain
from roles.codecs.codec import Codec
from roles.codecs.int8 import Int8
from roles.codecs.options import DISTRIBUTE, UPLOAD, CodecOptions, Fault, read_direction
from roles.codecs.stage import Stage
from roles.codecs.topk import TopK
from roles.settings import Settings


def make_codec(config: Any) -> Codec:
    """The codec of a configuration such as `bf16`, `{"name": "int8", "block": 64}` or `["delta", "topk", "bf16"]`.

    Raises:
        ValueError: it is not legal; the text says why.
    """
    faults: list[Fault] = []
    options = read_direction(config, "codec", UPLOAD, faults)
    if faults or not options:
        wrong = "; ".join(f"{fault.place} = {fault.value!r}: {fault.reason} (legal: {fault.legal})" for fault in faults)
        raise ValueError(wrong or f"codec = {config!r}: it names none")
    return build(options)


def codec_of(settings: Settings, channel: str, direction: str) -> Codec | None:
    """The codec of `channel` in a direction (`upload` or `distribute`), with a memory of its own; None where it has none."""
    codecs = settings.codecs.get(channel)
    options = () if codecs is None else {UPLOAD: codecs.upload, DISTRIBUTE: codecs.distribute}[direction]
    return build(options) if options else None


def build(options: Sequence[CodecOptions]) -> Codec:
    """The codec of legal options, in order; at least one."""
    names = [each.name for each in options]
    stages = [_stage(each.name, each.parameters) for each in options if each.name != "delta"]
    stage = stages[0] if stages else Cast(None)
    for later in stages[1:]:
        stage = Chain(stage, later)
    return Codec(stage, relative="delta" in names, feedback="topk" in names, shrinks=bool(stages))


def _stage(name: str, parameters: Mapping[str, float]) -> Stage:
    if name == "topk":
        return TopK(parameters["fraction"])
    if name == "int8":
        return Int8(int(parameters["block"]))
    return Cast({"bf16": torch.bfloat16, "fp16": torch.float16}[name])
