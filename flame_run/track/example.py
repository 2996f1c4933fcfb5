"""The example input of a model, in the forms that MLflow takes."""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlflow.models
import numpy as np
import torch

from flame_run.run.folder import RunFolder

if TYPE_CHECKING:
    from mlflow.models import ModelSignature

EXAMPLE_FILE = "example.pt"


@dataclass(frozen=True, slots=True)
class Example:
    """One input batch of a model: what `forward` is called with."""

    batch: torch.Tensor | tuple[torch.Tensor, ...] | Mapping[str, torch.Tensor]
    """A tensor is the one argument of `forward`, a tuple its positional ones, a mapping its named ones (or the one)."""

    @property
    def exportable(self) -> bool:
        """Whether MLflow's `pt2` format takes such an input: positional tensors only."""
        return not isinstance(self.batch, Mapping)

    @property
    def arrays(self) -> Any:
        """The batch as numpy arrays: one, a list, or a dictionary."""
        if isinstance(self.batch, Mapping):
            return {name: _array(value) for name, value in self.batch.items()}
        if isinstance(self.batch, tuple):
            return [_array(value) for value in self.batch]
        return _array(self.batch)

    def run(self, module: torch.nn.Module) -> Any:
        """Return the output of `module` for this batch, without gradients."""
        with torch.no_grad():
            if isinstance(self.batch, torch.Tensor):
                return module(self.batch)
            if isinstance(self.batch, tuple):
                return module(*self.batch)
            names = inspect.signature(module.forward).parameters
            return module(**self.batch) if self.batch.keys() <= names.keys() else module(self.batch)

    def signature(self, module: torch.nn.Module) -> "ModelSignature":
        """Return the signature of `module`: names (of several), dtypes and shapes, the first dimension open."""
        inputs = self.arrays
        if isinstance(inputs, list):
            names = [*inspect.signature(module.forward).parameters][: len(inputs)]
            inputs = dict(zip(_fill(names, len(inputs), "input"), inputs, strict=True))
        return mlflow.models.infer_signature(inputs, _named_arrays(self.run(module)))


def example_file(folder: RunFolder) -> Path | None:
    """Return the file of the example that a root saved, None if none did."""
    return next(
        (
            path
            for path in (folder.checkpoints / EXAMPLE_FILE, *sorted(folder.checkpoints.glob(f"*/{EXAMPLE_FILE}")))
            if path.is_file()
        ),
        None,
    )


def load_example(folder: RunFolder) -> Example | None:
    """Return the example that a root saved, None if none did or its batch was of an unknown kind."""
    path = example_file(folder)
    batch = None if path is None else torch.load(path, map_location="cpu", weights_only=True)
    if batch is None:
        return None
    return Example(tuple(batch) if isinstance(batch, list) else batch)


def _named_arrays(output: Any) -> Any:
    """Return a model's output as an array or a dictionary of arrays, None where it is neither."""
    if isinstance(output, torch.Tensor):
        return _array(output)
    if isinstance(output, list | tuple):
        output = dict(zip(_fill([], len(output), "output"), output, strict=True))
    if isinstance(output, Mapping) and output and all(isinstance(value, torch.Tensor) for value in output.values()):
        return {str(name): _array(value) for name, value in output.items()}
    return None


def _fill(names: list[str], count: int, stem: str) -> list[str]:
    return [*names, *(f"{stem}_{index}" for index in range(len(names), count))]


def _array(tensor: torch.Tensor) -> "np.ndarray[Any, Any]":
    """Return a tensor as an array; bfloat16, which numpy has not, as float32."""
    return np.asarray((tensor.float() if tensor.dtype is torch.bfloat16 else tensor).detach().cpu().numpy())
