"""Codecs and federated averaging through them in plain NumPy: float32 throughout, nothing of the program under test."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
State = dict[str, Array]


def bf16(value: Array) -> Array:
    """The nearest bfloat16, ties to even."""
    bits = np.ascontiguousarray(value).view(np.uint32)
    rounded = bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))
    return (rounded & np.uint32(0xFFFF0000)).view(np.float32)


def fp16(value: Array) -> Array:
    """The nearest float16 within its range."""
    return np.clip(value, -65504, 65504).astype(np.float16).astype(np.float32)


def int8(value: Array, block: int) -> Array:
    """Blocks of 8-bit integers with a scale."""
    flat, parts = value.reshape(-1), []
    for start in range(0, flat.size, block):
        piece = flat[start : start + block]
        scale = np.nextafter(np.float32(np.abs(piece).max() / np.float32(127)), np.float32(0))
        scale = max(scale, np.finfo(np.float32).tiny)
        parts.append(np.rint(piece * (np.float32(1) / scale)).astype(np.float32) * scale)
    return np.concatenate(parts).reshape(value.shape).astype(np.float32)


def topk(value: Array, fraction: float) -> tuple[NDArray[np.int64], Array]:
    """Indices and values of the largest entries."""
    flat = value.reshape(-1)
    kept = np.sort(np.argsort(-np.abs(flat), kind="stable")[: max(1, round(fraction * flat.size))])
    return kept, flat[kept]


LOSSES: Mapping[str, Callable[[Array], Array]] = {"bf16": bf16, "fp16": fp16, "int8": lambda value: int8(value, 8)}
BYTES: Mapping[str, Callable[[int], tuple[int, ...]]] = {
    "bf16": lambda n: (2 * n,),
    "fp16": lambda n: (2 * n,),
    "int8": lambda n: (n, 4 * -(-n // 8)),
}
"""Sizes of the parts of n values."""


def _room(nbytes: int) -> int:
    return -(-nbytes // 64) * 64


class Wire:
    """One sender's way through a codec: a list of names; `int8` with blocks of 8, `topk` with a fraction of 0.25."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = list(names)
        self.relative = "delta" in self.names or "topk" in self.names
        self.unsent: State = {}

    def encoded(self, size: int) -> bool:
        """Whether an entry of `size` float32 is encoded at all."""
        if self.names == ["delta"]:
            return True
        kept = max(1, round(0.25 * size)) if "topk" in self.names else size
        quantised = [name for name in self.names if name in LOSSES]
        parts = BYTES[quantised[0]](kept) if quantised else (4 * kept,)
        if "topk" in self.names:
            parts = (*parts, 4 * kept)
        return bool(quantised or "topk" in self.names) and sum(map(_room, parts)) < _room(4 * size)

    def through(self, state: State, reference: State) -> State:
        """What arrives of `state`: values, or differences to `reference`."""
        return {name: self._one(name, value, reference[name]) for name, value in state.items()}

    def _one(self, name: str, value: Array, reference: Array) -> Array:
        if not self.encoded(value.size):
            return value
        given = value - reference if self.relative else value
        losses = [LOSSES[each] for each in self.names if each in LOSSES]
        if "topk" not in self.names:
            return losses[0](given) if losses else given
        given = self.unsent.get(name, np.zeros_like(given)) + given
        kept, values = topk(given, 0.25)
        sent = np.zeros(given.size, np.float32)
        sent[kept] = losses[0](values) if losses else values
        self.unsent[name] = (given.reshape(-1) - sent).reshape(given.shape)
        return sent.reshape(given.shape)


def mean(arrived: Sequence[State], weights: Sequence[float], wire: Wire, reference: State) -> State:
    """The weighted mean of updates that came through codecs like `wire`."""
    result = {}
    for name, base in reference.items():
        total = np.zeros_like(base)
        for state, weight in zip(arrived, weights, strict=True):
            total = total + np.float32(weight) * state[name]
        if wire.relative and wire.encoded(base.size):
            total = total + np.float32(sum(weights)) * base
        result[name] = (total / np.float32(sum(weights))).astype(np.float32)
    return result


class Tier:
    """One aggregator of any level: what its ends get, and what it makes of what they send."""

    def __init__(self, ends: Mapping[str, Any], codecs: Mapping[str, Sequence[str]]) -> None:
        """`ends`: name -> a function (round, model) -> (state, weight), or another tier; `codecs`: of its channel by direction."""
        self.ends = ends
        self.down = Wire(codecs.get("distribute", []))
        self.up = {name: Wire(codecs.get("upload", [])) for name in ends}

    def round(self, number: int, model: State) -> tuple[State, float]:
        """The mean of one round and its weight."""
        received = self.down.through(model, model)
        arrived, weights = [], []
        for name, end in self.ends.items():
            state, weight = end.round(number, received) if isinstance(end, Tier) else end(number, received)
            arrived.append(self.up[name].through(state, received))
            weights.append(weight)
        return mean(arrived, weights, next(iter(self.up.values())), received), float(sum(weights))
