"""Samples and labels of a dataset as two tensors, whatever file or folder they lie in.

| on disk | `data_format` | contents |
| --- | --- | --- |
| folder | `idx` | MNIST's four IDX files, packed with gzip or not; also below `raw` or `NAME/raw`, torchvision's layout |
| folder | `torchvision` | the root of torchvision's CIFAR10 or CIFAR100 |
| `.npz` | `npz` | arrays `x_train`, `y_train`, `x_test`, `y_test`, or `x`, `y` |
| `.pt`, `.pth` | `pt` | a dict of tensors with those keys, or a tuple `(x, y)` |
| `.csv`, `.csv.gz` | `csv` | numbers; the label is the column `label` or `y`, else the last; the header is optional |

Where the data has no test part of its own, the last tenth of the samples in file order (at least one) is the test part and
the rest is the training part.
"""

import gzip
import pickle
import struct
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flame_run import torchvision_guard
from flame_run.data import idx
from flame_run.data.errors import DataError
from flame_run.data.shelf import SHELF

Split = Literal["train", "test"]
TEST_SHARE = 10
"""One sample of so many is held out where the data has no test part."""

_FORMATS = {".npz": "npz", ".pt": "pt", ".pth": "pt", ".csv": "csv", ".gz": "csv"}
_CIFAR = {"cifar-10-batches-py": "CIFAR10", "cifar-100-python": "CIFAR100"}
_UNREADABLE = (
    OSError,
    RuntimeError,
    EOFError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    struct.error,
    pickle.UnpicklingError,
)
"""What `torch.load` raises for bytes that are no archive of tensors: it runs them as far as it understands them."""
_LEGAL = "legal: a folder of IDX files, torchvision's CIFAR10 or CIFAR100, .npz, .pt, .csv"


def load_arrays(path: Path, split: Split, data_format: str = "") -> tuple[Tensor, Tensor]:
    """Read the samples and labels of one split. Do not write to them: other workers of the process may use them (see `Shelf`).

    Args:
        path: A file or folder of the table above, such as `locate` returns.
        split: `train` or `test`.
        data_format: One of the table's second column; empty: told from the path.

    Returns:
        x of shape (N, ...) in the type it is stored in (float32 for csv), and y of shape (N, ...): int64 if the labels are
        integers (in csv: whole numbers), else float32.

    Raises:
        DataError: The path is missing, of no known format, broken, or x and y do not fit together.

    """
    shelf = SHELF.get()
    if shelf is None:
        return _read(path, split, data_format)
    return shelf.get((path.absolute(), split, data_format), lambda: _read(path, split, data_format))


def _read(path: Path, split: Split, data_format: str) -> tuple[Tensor, Tensor]:
    chosen = data_format or _guess(path)
    match chosen:
        case "idx":
            x, y = _from_idx(path, split)
        case "npz":
            x, y = _pick(path, _read_npz(path), split)
        case "pt":
            x, y = _pick(path, _read_pt(path), split)
        case "csv":
            x, y = _cut_off_test(path, *_read_csv(path), split)
        case "torchvision":
            x, y = _from_cifar(path, split)
        case _:
            raise DataError("dataFormat", data_format, "not a format that can be read", "legal: idx, npz, pt, csv, torchvision")
    return _checked(path, _tensor(path, x), _tensor(path, y))


def _guess(path: Path) -> str:
    if path.is_dir():
        if idx.idx_folder(path):
            return "idx"
        if any((path / name).is_dir() for name in _CIFAR):
            return "torchvision"
        raise DataError("folder", str(path), "it holds no data of a known format", _LEGAL)
    if not path.exists():
        raise DataError("file", str(path), "it does not exist", _LEGAL)
    if path.suffix.lower() not in _FORMATS:
        raise DataError("file", str(path), f"files named *{path.suffix} are of no known format", _LEGAL)
    return _FORMATS[path.suffix.lower()]


def _from_idx(path: Path, split: Split) -> tuple[Any, Any]:
    folder = idx.idx_folder(path)
    if folder is None:
        raise DataError(
            "folder", str(path), "it holds no IDX files", "legal: train-images-idx3-ubyte(.gz), train-labels-idx1-ubyte(.gz)"
        )
    if idx.has_idx_split(folder, "test"):
        return idx.read_idx_split(folder, split)
    return _cut_off_test(path, *idx.read_idx_split(folder, "train"), split)


def _from_cifar(path: Path, split: Split) -> tuple[Any, Any]:
    torchvision_guard.install()
    from torchvision import datasets  # noqa: PLC0415 - takes a second

    name = next((name for folder, name in _CIFAR.items() if (path / folder).is_dir()), None)
    if name is None:
        raise DataError("folder", str(path), f"it holds none of {', '.join(_CIFAR)}", _LEGAL)
    try:
        dataset = getattr(datasets, name)(root=str(path), train=split == "train")
    except (OSError, RuntimeError) as error:
        raise DataError("folder", str(path), f"torchvision cannot read {name} from it: {error}") from error
    return dataset.data, np.asarray(dataset.targets, np.int64)


def _read_npz(path: Path) -> dict[str, NDArray[Any]]:
    if path.is_file() and not zipfile.is_zipfile(path):  # NumPy would take it for a pickle, and recommend to load it as one
        raise DataError("file", str(path), "not a .npz archive of plain arrays: the file is no zip archive")
    try:
        with np.load(path, allow_pickle=False) as archive:
            return dict(archive)
    except (OSError, ValueError, TypeError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError("file", str(path), f"not a .npz archive of plain arrays: {error}") from error


def _read_pt(path: Path) -> Mapping[str, Any]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except _UNREADABLE as error:
        reason = str(error).split("\n", 1)[0]
        raise DataError("file", str(path), f"cannot be read as tensors only: {reason}") from error
    match content:
        case [x, y]:
            return {"x": x, "y": y}
        case Mapping():
            return content
    kind = type(content).__name__
    raise DataError(
        "file", str(path), f"it holds a {kind}", "legal: a dict x_train, y_train, x_test, y_test or x, y, or a tuple (x, y)"
    )


def _read_csv(path: Path) -> tuple[NDArray[np.float32], NDArray[Any]]:
    try:
        with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as file:
            lines = file.read().splitlines()
        names = _header(lines)
        table = np.loadtxt(lines, delimiter=",", skiprows=1 if names else 0, ndmin=2, dtype=np.float64, comments=None)
    except (OSError, ValueError, EOFError, zlib.error) as error:
        raise DataError("file", str(path), f"not a table of numbers: {error}") from error
    if table.shape[0] == 0 or table.shape[1] <= 1:
        raise DataError("file", str(path), f"a table of shape {table.shape}", "legal: at least one row, one value and one label")
    label = next((names.index(name) for name in ("label", "y") if name in names), table.shape[1] - 1)
    y = table[:, label]
    whole = bool(np.all(np.isfinite(y)) and np.all(y == np.round(y)))
    return np.delete(table, label, axis=1).astype(np.float32), y.astype(np.int64 if whole else np.float32)


def _header(lines: list[str]) -> list[str]:
    """Return the column names of the first line, or nothing if it holds numbers only."""
    cells = [cell.strip().strip('"') for cell in lines[0].split(",")] if lines else []
    try:
        [float(cell) for cell in cells]
    except ValueError:
        return cells
    return []


def _pick(path: Path, content: Mapping[str, Any], split: Split) -> tuple[Any, Any]:
    """Pick the arrays of a split by name; without a test part of its own, cut one off."""
    if f"x_{split}" in content and f"y_{split}" in content:
        return content[f"x_{split}"], content[f"y_{split}"]
    for x, y in (("x_train", "y_train"), ("x", "y")):
        if x in content and y in content:
            return _cut_off_test(path, content[x], content[y], split)
    found = ", ".join(map(str, content)) or "nothing"
    raise DataError("file", str(path), f"it holds {found}", "legal: x_train, y_train, x_test, y_test or x, y")


def _cut_off_test(path: Path, x: Any, y: Any, split: Split) -> tuple[Any, Any]:
    if np.ndim(x) == 0 or len(x) <= 1:
        raise DataError("data", str(path), "too few samples to hold a test part out", "legal: at least 2")
    first = len(x) - max(1, len(x) // TEST_SHARE)
    part = slice(None, first) if split == "train" else slice(first, None)
    return x[part], y[part]


def _tensor(path: Path, values: Any) -> Tensor:
    if isinstance(values, Tensor):
        return values
    try:
        return torch.from_numpy(np.ascontiguousarray(values))
    except TypeError as error:
        raise DataError(
            "data", str(path), f"values of type {getattr(values, 'dtype', type(values).__name__)} are not numbers"
        ) from error


def _checked(path: Path, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    if x.ndim == 0 or y.ndim == 0 or len(x) != len(y) or len(x) == 0:
        reason = f"{tuple(x.shape)} samples do not fit {tuple(y.shape)} labels"
        raise DataError("data", str(path), reason, "legal: as many labels as samples, at least one")
    return x, y.to(torch.float32 if y.is_floating_point() else torch.int64)
