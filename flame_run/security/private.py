"""Files that nobody but their owner may read."""

import os
import secrets
from pathlib import Path

from flame_run.security.errors import SecurityError


def write_private(path: Path, data: bytes) -> None:
    """Replace `path` by `data`, whole or not at all; mode 0600 from its first moment."""
    _replace(path, data, 0o600)


def write_public(path: Path, data: bytes) -> None:
    """Replace `path` by `data`, whole or not at all; mode 0644."""
    _replace(path, data, 0o644)


def _replace(path: Path, data: bytes, mode: int) -> None:
    draft = path.with_name(f"{path.name}.{secrets.token_hex(8)}.tmp")
    handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def read_private(path: Path) -> bytes:
    """Read a file that only its owner can read.

    Raises:
        SecurityError: it is not there, is another user's, or others may read or write it.
    """
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise SecurityError(f"{path} cannot be read: {error.strerror}") from error
    with os.fdopen(handle, "rb") as file:
        status = os.fstat(file.fileno())
        if status.st_mode & 0o077:
            mode = f"{status.st_mode & 0o777:04o}"
            raise SecurityError(f"{path} has mode {mode}: others can read it; make it yours alone with chmod 600 {path}")
        if status.st_uid not in (os.geteuid(), 0):
            raise SecurityError(f"{path} belongs to another user (id {status.st_uid})")
        return file.read()


def make_private_folder(path: Path) -> None:
    """Make a folder (and those above it) that only its owner can enter; one that is there is closed to others."""
    path.mkdir(parents=True, exist_ok=True, mode=0o700)
    path.chmod(0o700)
