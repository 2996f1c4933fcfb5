"""Which part of a module's state is exchanged, how it is read and written, and its fingerprint."""

import hashlib
import os
import pickle
import shutil
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from roles import seals
from roles.errors import BadModel
from roles.rounds.average import WEIGHTS
from roles.settings import Share
from transports.message import Message, placed

FROZEN = "frozen"
"""Name of the tensor group with parameters that need no gradient: sent down, not back, so that they keep every bit."""


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def shares(name: str, share: Share) -> bool:
    """Whether the entry `name` is exchanged."""
    return _matches(name, share.include) and not _matches(name, share.exclude)


def shared_state(module: nn.Module, share: Share) -> dict[str, dict[str, Tensor]]:
    """The exchanged part of `module.state_dict()` in two groups, `weights` and `frozen`; tensors are the module's own.

    Raises:
        BadModel: the patterns of `share` select nothing, or a lazy parameter has no shape yet.
    """
    parameters = dict(module.named_parameters(remove_duplicate=False))
    frozen_names = {name for name, value in parameters.items() if not value.requires_grad}
    groups: dict[str, dict[str, Tensor]] = {WEIGHTS: {}, FROZEN: {}}
    for name, value in module.state_dict().items():
        if not isinstance(value, Tensor) or not shares(name, share) or (share.parameters_only and name not in parameters):
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


def shared_parameters(module: nn.Module, share: Share) -> dict[str, nn.Parameter]:
    """Name -> parameter, for those that are exchanged and trained."""
    return {
        name: value
        for name, value in module.named_parameters(remove_duplicate=False)
        if value.requires_grad and shares(name, share)
    }


def of_module(groups: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Mapping[str, Tensor]]:
    """The groups of a model message that are entries of the module; a strategy may send others."""
    return {group: tensors for group, tensors in groups.items() if group in (WEIGHTS, FROZEN)}


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


@torch.no_grad()
def adopt(module: nn.Module, model: Message) -> None:
    """Let the parameters of `module` lie in the memory of `model`, which is packed, and copy the other entries into it.

    Nothing may write to the parameters from then on. Each gets a storage of its own, so that they can be saved one by one.

    Raises:
        BadModel: an entry that the module lacks, or of another shape.
    """
    memory, parameters = model.buffer.numpy(), dict(module.named_parameters(remove_duplicate=False))
    copied: dict[str, Tensor] = {}
    for group, name, spec, start in placed(model.specs):
        if group not in (WEIGHTS, FROZEN):
            continue
        parameter = parameters.get(name)
        if parameter is None or spec.nbytes == 0 or (parameter.dtype, tuple(parameter.shape)) != (spec.dtype, spec.shape):
            copied[name] = model.groups[group][name]
        else:
            parameter.data = torch.from_numpy(memory[start : start + spec.nbytes]).view(spec.dtype).view(spec.shape)
    load_shared(module, {WEIGHTS: copied})


def adoptable(module: nn.Module) -> bool:
    """Whether the parameters of `module` are only read when it is tested."""
    return not any(isinstance(part, nn.Embedding | nn.EmbeddingBag) and part.max_norm is not None for part in module.modules())


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
    _write(value, path, sealed=False, prove=False)


def save_sealed(value: Any, path: Path, *, prove: bool = False) -> None:
    """As `save_atomically`, with a line at the end by which `roles.seals` tells whether the file is whole.

    With `prove`, the file is read back before it takes its place.

    Raises:
        BadModel: `value` holds something that cannot be read back without running code.
    """
    _write(value, path, sealed=True, prove=prove)


def load_whole(path: Path) -> Any:
    """What was saved in `path`, on the CPU; no code of the file is run.

    Raises:
        BadModel: it holds something that this version of torch does not read back.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise BadModel(f"{path.name} cannot be read back: {reason}") from error


def link_atomically(source: Path, path: Path) -> None:
    """Let `path` be another name of `source`; a copy, where the file system knows no second names."""
    temporary = path.with_name(f"{path.name}.tmp")
    temporary.unlink(missing_ok=True)
    try:
        temporary.hardlink_to(source)
    except OSError:
        shutil.copyfile(source, temporary)
        _sync(temporary)
    # A rename between two names of one file does nothing, and leaves both.
    temporary.replace(path)
    temporary.unlink(missing_ok=True)
    _sync(path.parent)


def _write(value: Any, path: Path, *, sealed: bool, prove: bool) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.tmp")
    try:
        torch.save(value, temporary)
        if sealed:
            seals.seal(temporary)
        if prove:
            load_whole(temporary)
        _sync(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    _sync(path.parent)


def _sync(path: Path) -> None:
    """Have the system bring a file, or the entries of a folder, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
