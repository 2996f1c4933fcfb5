"""Reading IDX files, the format of MNIST and its relatives, packed with gzip or not. NumPy only.

An IDX file is two zero bytes, a byte for the element type, a byte for the number of dimensions, one big-endian uint32 per
dimension, and the elements, big-endian, last dimension fastest.

Source: http://yann.lecun.com/exdb/mnist/, "The IDX file format".
"""

import struct
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from flame_run.data.errors import DataError
from flame_run.data.unpack import unpack
from flame_run.data.urls import cache_folder

_TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_MAGIC = 4
"""Bytes before the dimensions."""
_FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}


def read_idx(path: Path) -> NDArray[np.generic]:
    """Read one IDX file.

    Args:
        path: The file; it is unpacked if it begins with gzip's magic number, whatever its name is.

    Returns:
        Array of the shape and element type that the header gives, in native byte order, writable.

    Raises:
        DataError: The file is missing, not IDX, cut off, or longer than its header says.

    """
    raw = _unpacked(path)
    magic = bytes(raw[:_MAGIC])
    if len(raw) < _MAGIC or magic[:2] != b"\0\0" or magic[2] not in _TYPES:
        raise DataError(
            "file",
            str(path),
            f"not an IDX file: it begins with {magic.hex(' ') or 'nothing'}",
            "legal: 00 00, type, dimensions",
        )
    header = _MAGIC + 4 * magic[3]
    if len(raw) < header:
        raise DataError("file", str(path), f"cut off within its header, at byte {len(raw)} of {header}")
    shape = struct.unpack(f">{magic[3]}I", bytes(raw[_MAGIC:header]))
    dtype = np.dtype(_TYPES[magic[2]])
    expected = header + dtype.itemsize * int(np.prod(shape, dtype=np.int64))
    if len(raw) != expected:
        relation = "cut off" if len(raw) < expected else "longer than its header says"
        raise DataError("file", str(path), f"{relation}: {len(raw)} bytes for shape {shape}, expected {expected}")
    return np.frombuffer(raw, dtype, offset=header).reshape(shape).astype(dtype.newbyteorder("="), copy=False)


def idx_folder(path: Path) -> Path | None:
    """Return the folder with IDX files that `path` names, None if there is none.

    That is `path` itself, `path/raw`, or `path/NAME/raw` as torchvision lays it out (`MNIST/raw`), if there is one such NAME.
    """
    candidates = [path, path / "raw", *sorted(path.glob("*/raw"))]
    found = [folder for folder in candidates if _find(folder, _FILES["train"][0]) or _find(folder, _FILES["train"][1])]
    if len(found) > 1:
        names = ", ".join(folder.relative_to(path).as_posix() for folder in found)
        raise DataError("folder", str(path), f"it holds several sets of IDX files: {names}", "name one of them")
    return found[0] if found else None


def has_idx_split(folder: Path, split: str) -> bool:
    """Whether the folder has any file of the split `train` or `test`."""
    return any(_find(folder, name) for name in _FILES[split])


def read_idx_split(folder: Path, split: str) -> tuple[NDArray[np.generic], NDArray[np.generic]]:
    """Read samples and labels of the split `train` or `test` from a folder with MNIST's file names.

    Raises:
        DataError: One of the two files is missing or broken.

    """
    images, labels = (_find(folder, name) for name in _FILES[split])
    if images is None or labels is None:
        missing = _FILES[split][0 if images is None else 1]
        raise DataError("folder", str(folder), f"it lacks {missing}", f"legal: {missing} or {missing}.gz")
    return read_idx(images), read_idx(labels)


def _find(folder: Path, name: str) -> Path | None:
    """Find a file by its usual name, by the name with a dot (`train-images.idx3-ubyte`), each packed or not."""
    dotted = name.replace("-idx", ".idx")
    paths = (folder / f"{stem}{suffix}" for stem in (name, dotted) for suffix in ("", ".gz"))
    return next((path for path in paths if path.is_file()), None)


def _unpacked(path: Path) -> NDArray[np.uint8]:
    try:
        raw = path.read_bytes()
        return unpack(raw, cache_folder()) if raw[:2] == b"\x1f\x8b" else np.frombuffer(bytearray(raw), np.uint8)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError("file", str(path), f"cannot be read: {error}") from error
