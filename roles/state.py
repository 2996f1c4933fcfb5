"""Which part of a module's state is exchanged, how it is read and written, and its fingerprint."""

import hashlib
import os
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from roles.average import WEIGHTS
from roles.errors import BadModel
from roles.settings import Share

FROZEN = "frozen"
"""Name of the tensor group with parameters that need no gradient: sent down, not back, so that they keep every bit."""


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def shared_state(module: nn.Module, share: Share) -> dict[str, dict[str, Tensor]]:
    """The exchanged part of `module.state_dict()` in two groups, `weights` and `frozen`; tensors are the module's own.

    Raises:
        BadModel: the patterns of `share` select nothing, or a lazy parameter has no shape yet.
    """
    frozen_names = {name for name, value in module.named_parameters(remove_duplicate=False) if not value.requires_grad}
    groups: dict[str, dict[str, Tensor]] = {WEIGHTS: {}, FROZEN: {}}
    for name, value in module.state_dict().items():
        if not isinstance(value, Tensor) or not _matches(name, share.include) or _matches(name, share.exclude):
            continue
        if nn.parameter.is_lazy(value):
            raise BadModel(f"parameter {name!r} is lazy: run the module on one batch in its constructor, so that it has a shape")
        groups[FROZEN if name in frozen_names else WEIGHTS][name] = value
    if not groups[WEIGHTS]:
        raise BadModel(
            f"nothing to exchange: job.share.include={list(share.include)} and exclude={list(share.exclude)} leave no trainable "
            f"entry of {sorted(module.state_dict())}"
        )
    return groups


@torch.no_grad()
def load_shared(module: nn.Module, groups: Mapping[str, Mapping[str, Tensor]]) -> None:
    """Copy the tensors of `groups` into the module, in place, so that ties and optimizers stay intact.

    Raises:
        BadModel: an entry that the module lacks, or of another shape.
    """
    state = module.state_dict()
    for group in groups.values():
        for name, value in group.items():
            target = state.get(name)
            if target is None or target.shape != value.shape:
                found = "none" if target is None else str(tuple(target.shape))
                raise BadModel(f"the global model has {name!r} of shape {tuple(value.shape)}, this worker's module has {found}")
            target.copy_(value)


def model_sha256(state: Mapping[str, Tensor]) -> str:
    """Hex SHA-256 over, for each key in sorted order: name, dtype, shape, little-endian bytes."""
    digest = hashlib.sha256()
    for name in sorted(state):
        value = state[name].detach().cpu().contiguous()
        digest.update(f"{name}\0{str(value.dtype).removeprefix('torch.')}\0{tuple(value.shape)}\0".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def save_atomically(value: Any, path: Path) -> None:
    """`torch.save` to `path` so that a reader sees the old file or the whole new one, also after a power cut."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.tmp")
    with temporary.open("wb") as file:
        torch.save(value, file)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
