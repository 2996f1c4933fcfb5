"""A codec of one direction of a channel: what becomes of a whole model, entry by entry."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from roles.codecs import delta
from roles.codecs.feedback import Feedback
from roles.codecs.stage import VALUES, Parts, Stage, finite
from roles.rounds.average import WEIGHTS, accumulator_dtype
from transports.message import ALIGNMENT, Groups, Specs, TensorSpec

COMPUTED = {torch.float16: "float16", torch.bfloat16: "bfloat16", torch.float32: "float32", torch.float64: "float64"}
"""The types of entries that codecs work on, and their names in the names of tensor groups."""


class Codec:
    """Writes a model, or an update, as groups of tensors of fixed types, and reads it back.

    The parts of an entry lie in the groups `weights.TYPE.PART`, under its name; TYPE is that of the entry. Entries that
    travel as they are lie in the group `weights`: all that are not of a type in `COMPUTED`, empty ones, and small ones
    that would take no less room in a message.

    Args:
        stage: how one tensor is written.
        relative: whether it is the difference to a reference that is written.
        feedback: whether what is not sent is remembered and added to what comes next.
        shrinks: whether entries that would not get smaller travel as they are.
    """

    def __init__(self, stage: Stage, *, relative: bool = False, feedback: bool = False, shrinks: bool = True) -> None:
        self._stage = stage
        self._shrinks = shrinks
        self._scratch = torch.empty(0, dtype=torch.uint8)
        self._feedback = Feedback(stage) if feedback else None
        self.relative = relative
        """Whether decoded values are differences to the model that was received."""

    @property
    def stateful(self) -> bool:
        """Whether it remembers what was not sent: then its `state_dict` belongs to the state of the worker."""
        return self._feedback is not None

    def encodes(self, spec: TensorSpec) -> bool:
        """Whether an entry of type `spec` is encoded; the others travel as they are."""
        if spec.dtype not in COMPUTED or spec.nbytes == 0:
            return False
        return not self._shrinks or sum(map(_room, self._stage.parts(spec).values())) < _room(spec)

    def encoded_names(self, specs: Mapping[str, TensorSpec]) -> list[str]:
        """The entries that are encoded, in order."""
        return [name for name, spec in specs.items() if self.encodes(spec)]

    def specs(self, specs: Mapping[str, TensorSpec]) -> dict[str, dict[str, TensorSpec]]:
        """The tensor groups of an encoded model whose entries are of the types `specs`."""
        groups: dict[str, dict[str, TensorSpec]] = {}
        for name, spec in specs.items():
            if not self.encodes(spec):
                groups.setdefault(WEIGHTS, {})[name] = spec
                continue
            for part, type_ in self._stage.parts(spec).items():
                groups.setdefault(f"{WEIGHTS}.{COMPUTED[spec.dtype]}.{part}", {})[name] = type_
        return groups

    def plain_specs(self, specs: Specs) -> dict[str, TensorSpec]:
        """The types of the entries behind the groups of an encoded model, as far as their shapes are kept (not with `topk`)."""
        plain = dict(specs.get(WEIGHTS, {}))
        for dtype, word in COMPUTED.items():
            values = specs.get(f"{WEIGHTS}.{word}.{VALUES}", {})
            plain |= {name: TensorSpec(dtype, spec.shape) for name, spec in values.items()}
        return plain

    def nbytes(self, specs: Mapping[str, TensorSpec]) -> int:
        """Bytes of the tensors of an encoded model, without gaps between them."""
        return sum(spec.nbytes for group in self.specs(specs).values() for spec in group.values())

    @torch.no_grad()
    def encode(self, state: Mapping[str, Tensor], groups: Groups, reference: Mapping[str, Tensor] | None = None) -> None:
        """Write `state` to the tensors of `groups`, which are of the types `self.specs(...)`.

        Args:
            state: entries of any strides and device, of their own type or of one with more bits (a mean).
            groups: contiguous tensors in host memory.
            reference: the model that was received; needed if the codec is relative.

        Raises:
            ValueError: a relative codec without a reference.
        """
        if self.relative and reference is None:
            raise ValueError("differences to the model that was received need that model")
        for name, dtype, parts in _entries(groups):
            if dtype is None:
                parts[VALUES].copy_(state[name])
                continue
            value = self._input(state[name], accumulator_dtype(dtype), None if reference is None else reference[name])
            if self._feedback is None:
                self._stage.encode(value, parts)
            else:
                self._feedback.encode(name, value, parts)

    def entries(self, groups: Groups) -> "dict[str, Tensor | Encoded]":
        """Each entry as it came: a tensor, or encoded."""
        return {
            name: parts[VALUES] if dtype is None else Encoded(self._stage, parts, dtype) for name, dtype, parts in _entries(groups)
        }

    def decode(self, groups: Groups, out: Mapping[str, Tensor]) -> None:
        """Write the entries behind `groups` to the tensors of the same names in `out`, of the entries' types or with more bits."""
        for name, entry in self.entries(groups).items():
            if isinstance(entry, Tensor):
                out[name].copy_(entry)
            else:
                entry.write(out[name])

    def check(self, groups: Groups, specs: Mapping[str, TensorSpec]) -> str | None:
        """Why the values of an encoded model cannot be used; None if all are finite. Types and shapes have been checked."""
        for name, dtype, parts in _entries(groups):
            if dtype is None:
                reason = None if _usable(parts[VALUES]) else "has values that are not finite"
            else:
                reason = self._stage.check(parts, specs[name])
            if reason is not None:
                return f"entry {name!r} {reason}"
        return None

    def take_back(self, groups: Groups) -> None:
        """Remember what was encoded into `groups`, as far as anything is remembered: it was sent, but not taken."""
        if self._feedback is not None:
            for name, dtype, parts in _entries(groups):
                if dtype is not None:
                    self._feedback.take_back(name, parts)

    def state_dict(self) -> dict[str, Any]:
        """What the next round needs of the last ones; the tensors are those in use."""
        return {} if self._feedback is None else self._feedback.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what `state_dict` gave."""
        if self._feedback is not None:
            self._feedback.load_state_dict(state)

    def _input(self, value: Tensor, dtype: torch.dtype, reference: Tensor | None) -> Tensor:
        """What the stage gets: `value`, or its difference to `reference`, contiguous, in host memory, of `dtype`."""
        if self.relative and reference is not None:
            out = self._memory(value.shape, dtype)
            delta.difference(value.cpu(), reference, out)
            return out
        if value.dtype == dtype and value.is_contiguous() and value.device.type == "cpu":
            return value
        return self._memory(value.shape, dtype).copy_(value)

    def _memory(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """The codec's own memory for one tensor, any content; valid until the next call."""
        nbytes = TensorSpec(dtype, tuple(shape)).nbytes
        if self._scratch.numel() < nbytes:
            self._scratch = torch.empty(nbytes, dtype=torch.uint8)
        return self._scratch[:nbytes].view(dtype).view(shape)


class Encoded:
    """One encoded entry: what a sum takes in without a decoded copy of it."""

    def __init__(self, stage: Stage, parts: Parts, dtype: torch.dtype) -> None:
        self._stage = stage
        self._parts = parts
        self.dtype = dtype
        """Type of the entry."""

    def value(self, shape: tuple[int, ...]) -> Tensor:
        """The decoded values, a new tensor of the entry's type and `shape`."""
        out = torch.empty(shape, dtype=self.dtype)
        self.write(out)
        return out

    def write(self, out: Tensor) -> None:
        """Write the decoded values to `out`, contiguous and in host memory."""
        if out.dtype == accumulator_dtype(out.dtype):
            self._stage.decode(self._parts, out)
        else:
            value = torch.empty(out.shape, dtype=accumulator_dtype(out.dtype))
            self._stage.decode(self._parts, value)
            out.copy_(value)

    def add(self, total: Tensor, factor: float) -> None:
        """Add `factor` times the decoded values to `total`, of at least float32, contiguous and in host memory."""
        self._stage.add(self._parts, total, factor)


def _entries(groups: Groups) -> Iterator[tuple[str, torch.dtype | None, dict[str, Tensor]]]:
    """Each entry with its type, None if it travels as it is, and its parts."""
    for name, value in groups.get(WEIGHTS, {}).items():
        yield name, None, {VALUES: value}
    for dtype, word in COMPUTED.items():
        prefix = f"{WEIGHTS}.{word}."
        parts = {group.removeprefix(prefix): tensors for group, tensors in groups.items() if group.startswith(prefix)}
        for name in parts.get(VALUES, {}):
            yield name, dtype, {part: tensors[name] for part, tensors in parts.items()}


def _room(spec: TensorSpec) -> int:
    """Bytes that a tensor takes in a message, where the next one starts at a multiple of `ALIGNMENT`."""
    return -(-spec.nbytes // ALIGNMENT) * ALIGNMENT


def _usable(value: Tensor) -> bool:
    """Whether an entry that travels as it is has finite values only."""
    if value.is_complex():
        return bool(torch.isfinite(value if value.dtype.itemsize > torch.complex32.itemsize else value.to(torch.complex64)).all())
    if not value.is_floating_point():
        return True
    return finite(value.float() if value.dtype.itemsize == 1 else value)
