"""How fast each codec writes and reads a model, and how far what is read differs; a copy of the same bytes beside it.

python -m tests.benchmarks.codec_speed --megabytes 64 --repeat 5
"""

import argparse
import json
import math
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from roles.codecs import make_codec
from transports.message import Message, TensorSpec

CODECS: Mapping[str, Any] = {
    "bf16": "bf16",
    "fp16": "fp16",
    "int8": "int8",
    "delta": "delta",
    "delta, bf16": ["delta", "bf16"],
    "delta, int8": ["delta", "int8"],
    "delta, topk": ["delta", "topk"],
    "delta, topk, bf16": ["delta", "topk", "bf16"],
}
SIDE = 1024
STEP = 0.01
"""Size of a round's change beside the size of the weights."""


def seconds(work: Callable[[], None]) -> float:
    """Wall-clock time of `work`."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def rms(values: Mapping[str, Tensor]) -> float:
    """Root of the mean square over all entries."""
    count = sum(value.numel() for value in values.values())
    total = math.fsum(float(value.double().square().sum()) for value in values.values())
    return math.sqrt(total / count)


def measure(config: Any, model: Mapping[str, Tensor], state: Mapping[str, Tensor], repeat: int) -> dict[str, Any]:
    """Seconds of writing, reading and copying, in turn; the error of the first writing; the size."""
    specs = {name: TensorSpec(value.dtype, tuple(value.shape)) for name, value in state.items()}
    codec = make_codec(config)
    message = Message.allocate("update", 1, {name: dict(group) for name, group in codec.specs(specs).items()})
    out = {name: torch.zeros_like(value) for name, value in state.items()}

    def write() -> None:
        codec.encode(state, message.groups, model)

    def read() -> None:
        codec.decode(message.groups, out)

    def copy() -> None:
        for name, value in state.items():
            out[name].copy_(value)

    write()
    read()
    relative = set(codec.encoded_names(specs)) if codec.relative else set()
    off = {name: out[name] + model[name] - value if name in relative else out[name] - value for name, value in state.items()}
    change = {name: value - model[name] for name, value in state.items()}
    found: dict[str, Any] = {"error": rms(off) / rms(state), "error_of_change": rms(off) / rms(change)}
    found["largest"] = max(float(value.abs().max()) for value in off.values())
    found["bytes"] = codec.nbytes(specs) / sum(spec.nbytes for spec in specs.values())
    turns = [(seconds(copy), seconds(write), seconds(copy), seconds(read)) for _ in range(repeat)]
    found["encode"], found["decode"] = [turn[1] for turn in turns], [turn[3] for turn in turns]
    found["copy"] = [turn[at] for turn in turns for at in (0, 2)]
    return found


def main() -> None:
    """Measure in one thread and print JSON: codec -> what was found."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--megabytes", type=int, default=64)
    parser.add_argument("--repeat", type=int, default=5)
    given = parser.parse_args()
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    layers = max(1, given.megabytes // 4)
    model = {f"layers.{index}": torch.randn(SIDE, SIDE, generator=generator) for index in range(layers)}
    state = {name: value + STEP * torch.randn(SIDE, SIDE, generator=generator) for name, value in model.items()}
    print(json.dumps({name: measure(config, model, state, given.repeat) for name, config in CODECS.items()}))


if __name__ == "__main__":
    main()
