"""Unpacking gzip data once per machine: the workers of a job then map one copy instead of unpacking one each."""

import gzip
import os
import secrets
import struct
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray

LEAST = 2**20
"""Bytes from which on unpacked data is worth a file."""
_SIZE = struct.Struct("<I")
"""The last field of a gzip file: how many bytes were packed, modulo 2**32. Source: RFC 1952."""


def unpack(packed: bytes, cache: Path) -> NDArray[np.uint8]:
    """Unpack gzip data, or find it in the cache.

    The cache is a help, no more: where it cannot be written, or another process is writing the same entry, the data is unpacked
    into memory.

    Args:
        packed: The whole content of the file.
        cache: Folder of the cache; it need not be there.

    Returns:
        The bytes, writable. What is written stays in this process.

    Raises:
        OSError, EOFError, zlib.error: It is not gzip data, or is broken.

    """
    (size,) = _SIZE.unpack(packed[-_SIZE.size :]) if len(packed) >= _SIZE.size else (0,)
    place = cache / "unpacked" / sha256(packed).hexdigest() if size >= LEAST else None
    if place is not None:
        # A crash of the machine can leave an entry without its end.
        with suppress(OSError, ValueError):
            found = np.memmap(place, np.uint8, mode="c")
            if len(found) == size:
                return found
    raw = gzip.decompress(packed)
    if place is not None and len(raw) == size:
        with suppress(OSError, Timeout):
            _store(place, raw)
    return np.frombuffer(bytearray(raw), np.uint8)


def _store(place: Path, raw: bytes) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(place.with_name(f".{place.name}.lock"), timeout=0):
        draft = place.with_name(f".{place.name}.{secrets.token_hex(8)}.tmp")
        try:
            with draft.open("xb") as file:
                file.write(raw)
                file.flush()
                os.fsync(file.fileno())
            draft.replace(place)
        finally:
            draft.unlink(missing_ok=True)
