"""Messages: named groups of tensors in one flat buffer, typed scalars, a kind and a round."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from threading import Lock
from types import MappingProxyType
from typing import Self

import torch
from torch import Tensor

from transports.dtypes import DTYPE_NAMES

Scalar = bool | int | float | str
ALIGNMENT = 64
"""Bytes; each tensor starts at a multiple of it, so that a view of any dtype is aligned."""


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """Type of a tensor without its values: torch dtype and shape."""

    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Size of the values in bytes."""
        return math.prod(self.shape) * self.dtype.itemsize


Specs = Mapping[str, Mapping[str, TensorSpec]]
"""Group name -> tensor name -> its type, in order."""

Groups = Mapping[str, Mapping[str, Tensor]]
"""Group name -> tensor name -> its values, in order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What a receiver learns of a message before it takes the payload."""

    kind: str
    round: int
    sender: str
    scalars: Mapping[str, Scalar] = field(default_factory=dict)
    specs: Specs = field(default_factory=dict)
    nbytes: int = 0
    """Size of the payload in bytes."""


def placed(specs: Specs) -> Iterator[tuple[str, str, TensorSpec, int]]:
    """Group, tensor, type and offset in bytes of each tensor of a packed buffer, in order."""
    end = 0
    for group, tensors in specs.items():
        for name, spec in tensors.items():
            start = -(-end // ALIGNMENT) * ALIGNMENT
            yield group, name, spec, start
            end = start + spec.nbytes


def packed_size(specs: Specs) -> int:
    """Bytes of the packed buffer of tensors of these types: it ends where the last tensor ends."""
    end = 0
    for _, _, spec, start in placed(specs):
        end = start + spec.nbytes
    return end


class Payload:
    """A flat buffer and who still uses it; given back when it was released and no transfer reads it.

    Args:
        buffer: uint8 tensor of shape (nbytes,), contiguous, in host memory.
        give_back: takes the buffer when nobody uses it any more.
    """

    def __init__(self, buffer: Tensor, give_back: Callable[[Tensor], None] | None = None) -> None:
        self.buffer = buffer
        self._give_back = give_back
        self._lock = Lock()
        self._pins = 0
        self._over = False
        self.released = False

    def expect(self, start: int, stop: int) -> None:
        """The bytes from `start` to `stop` are about to be read."""

    def forget(self, start: int, stop: int) -> None:
        """Say that the bytes from `start` to `stop` are not needed for now: a payload that is only mapped lets their memory go."""

    def pin(self) -> None:
        """Keep the buffer from being given back until `unpin()`."""
        with self._lock:
            self._pins += 1

    def unpin(self) -> None:
        """End one `pin()`."""
        with self._lock:
            self._pins -= 1
        self._settle()

    def release(self) -> None:
        """Say that no one reads the tensors any more. Idempotent."""
        with self._lock:
            self.released = True
        self._settle()

    def _settle(self) -> None:
        with self._lock:
            if self._over or self._pins or not self.released:
                return
            self._over = True
            buffer, self.buffer = self.buffer, torch.empty(0, dtype=torch.uint8)
        self._end(buffer)

    def _end(self, buffer: Tensor) -> None:
        if self._give_back is not None:
            self._give_back(buffer)


class Message:
    """A kind, a round, scalars and named groups of tensors. Treat it as immutable once it was sent.

    A message made by this constructor refers to the tensors given; `packed()` copies them into one buffer.

    Args:
        kind: what the message is for, such as `update`.
        round: round it belongs to, counted from 1; 0 is before the first.
        scalars: small typed values.
        groups: group name -> tensor name -> tensor of any shape, strides and device.
        sender: name of the worker it comes from; the transport sets it.

    Raises:
        TypeError: a scalar or tensor of a type that cannot travel.
        ValueError: a negative round or an empty kind.
    """

    __slots__ = ("_payload", "groups", "kind", "round", "scalars", "sender")

    def __init__(
        self,
        kind: str,
        round: int,
        *,
        scalars: Mapping[str, Scalar] | None = None,
        groups: Groups | None = None,
        sender: str = "",
    ) -> None:
        if not kind or round < 0:
            raise ValueError(f"a message needs a kind and a round from 0 on, not kind={kind!r}, round={round!r}")
        self.kind = kind
        self.round = round
        self.sender = sender
        self.scalars: Mapping[str, Scalar] = MappingProxyType({name: _checked(name, v) for name, v in (scalars or {}).items()})
        self.groups: Groups = MappingProxyType(
            {group: MappingProxyType({n: _travels(n, t) for n, t in tensors.items()}) for group, tensors in (groups or {}).items()},
        )
        self._payload: Payload | None = None

    @classmethod
    def allocate(
        cls,
        kind: str,
        round: int,
        specs: Specs,
        *,
        scalars: Mapping[str, Scalar] | None = None,
        payload: Payload | None = None,
    ) -> Self:
        """A packed message whose tensors are uninitialised views into one buffer, for the caller to fill.

        That is `payload`, of `packed_size(specs)` bytes; without it a new one in private memory.
        """
        header = Header(kind=kind, round=round, sender="", scalars=scalars or {}, specs=specs, nbytes=packed_size(specs))
        payload = payload or Payload(torch.empty(header.nbytes, dtype=torch.uint8))
        end = 0
        for _, _, spec, start in placed(specs):
            # What lies between two tensors would else be somebody's old memory, and travel.
            payload.buffer[end:start].zero_()
            end = start + spec.nbytes
        return cls.over(header, payload)

    @classmethod
    def over(cls, header: Header, payload: Payload) -> Self:
        """The message of `header` whose tensors are views into `payload`, a buffer of `header.nbytes` bytes."""
        message = cls(header.kind, header.round, scalars=header.scalars, sender=header.sender)
        groups: dict[str, dict[str, Tensor]] = {group: {} for group in header.specs}
        for group, name, spec, start in placed(header.specs):
            groups[group][name] = payload.buffer[start : start + spec.nbytes].view(spec.dtype).view(spec.shape)
        message.groups = MappingProxyType({group: MappingProxyType(tensors) for group, tensors in groups.items()})
        message._payload = payload
        return message

    @property
    def is_packed(self) -> bool:
        """Whether the tensors lie in one buffer."""
        return self._payload is not None

    @property
    def specs(self) -> Specs:
        """The type of each tensor, in order."""
        return {
            group: {name: TensorSpec(tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()}
            for group, tensors in self.groups.items()
        }

    @property
    def nbytes(self) -> int:
        """Size of the packed payload in bytes."""
        return packed_size(self.specs) if self._payload is None else self._payload.buffer.numel()

    @property
    def header(self) -> Header:
        """What travels ahead of the payload."""
        specs = self.specs
        return Header(
            kind=self.kind,
            round=self.round,
            sender=self.sender,
            scalars=self.scalars,
            specs=specs,
            nbytes=packed_size(specs),
        )

    @property
    def payload(self) -> Payload:
        """The buffer with its users.

        Raises:
            ValueError: the message is not packed, or was released.
        """
        if self._payload is None:
            raise ValueError(f"message {self.kind!r} of round {self.round} is not packed; call packed() first")
        if self._payload.released:
            raise ValueError(f"message {self.kind!r} of round {self.round} was released")
        return self._payload

    @property
    def buffer(self) -> Tensor:
        """The flat payload: uint8, shape (nbytes,); each tensor starts at a multiple of `ALIGNMENT` bytes.

        Raises:
            ValueError: see `payload`.
        """
        return self.payload.buffer

    def packed(self, into: Payload | None = None) -> "Message":
        """A message whose tensors are views into one buffer: itself if they are already, else a copy.

        Tensors are copied once, from any strides and device, without their gradients. With `into`, of `nbytes` bytes,
        they are copied there in any case.
        """
        if self._payload is not None and into is None:
            return self
        copy = Message.allocate(self.kind, self.round, self.specs, scalars=self.scalars, payload=into)
        copy.sender = self.sender
        for group, tensors in self.groups.items():
            for name, tensor in tensors.items():
                copy.groups[group][name].copy_(tensor)
        return copy

    def relabel(
        self,
        *,
        kind: str | None = None,
        round: int | None = None,
        scalars: Mapping[str, Scalar] | None = None,
    ) -> "Message":
        """The same tensors, not copied, under another kind, round or set of scalars. They are released together."""
        other = Message(
            self.kind if kind is None else kind,
            self.round if round is None else round,
            scalars=self.scalars if scalars is None else scalars,
        )
        other.groups, other._payload = self.groups, self._payload
        return other

    def release(self) -> None:
        """Let the buffer be used for another message. The tensors must not be used afterwards. Idempotent."""
        if self._payload is not None:
            self._payload.release()
            self.groups = MappingProxyType({})

    def __repr__(self) -> str:
        tensors = sum(len(group) for group in self.groups.values())
        return (
            f"Message({self.kind!r}, round={self.round}, scalars={dict(self.scalars)!r}, tensors={tensors}, sender={self.sender!r})"
        )


def _checked(name: str, value: Scalar) -> Scalar:
    if not isinstance(value, bool | int | float | str):
        raise TypeError(f"scalar {name!r}: {type(value).__name__} cannot travel; use bool, int, float or str")
    return value


def _travels(name: str, tensor: Tensor) -> Tensor:
    if tensor.layout is not torch.strided or tensor.dtype not in DTYPE_NAMES or tensor.device.type == "meta":
        raise TypeError(
            f"tensor {name!r} ({tensor.dtype}, {tensor.layout}, {tensor.device}) cannot travel; "
            f"use a dense tensor with values, of type {', '.join(DTYPE_NAMES.values())}",
        )
    return tensor.detach()
