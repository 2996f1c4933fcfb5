"""Fetching data into the cache, once, whole or not at all, under a lock."""

import inspect
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import file_digest, sha256
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from filelock import FileLock, Timeout

from flame_run import torchvision_guard
from flame_run.data.errors import DataError

CONNECT_SECONDS = 30.0
"""Longest silence of a server before a download fails."""
LOCK_SECONDS = 1800.0
"""Longest wait for another process that is fetching the same data."""


def verify(path: Path, checksum: str | None) -> None:
    """Check the SHA-256 of a file, if one is asked for.

    Raises:
        DataError: The file has another one.

    """
    if checksum is None:
        return
    with path.open("rb") as file:
        found = file_digest(file, "sha256").hexdigest()
    if found != checksum:
        raise DataError("file", str(path), f"its SHA-256 is {found}, not {checksum}")


def download(address: str, cache: Path, checksum: str | None) -> Path:
    """Fetch one file over HTTP(S) unless the cache holds it (and, with a checksum, holds it unchanged).

    Args:
        address: URL without fragment.
        cache: Folder of downloads.
        checksum: SHA-256 in hex, or None to take what the server sends.

    Returns:
        The cached file; it keeps the name at the end of the URL, so that its format can be told from it.

    Raises:
        DataError: The server cannot be reached, refuses, or sends other bytes than the checksum says.

    """
    import pooch  # noqa: PLC0415 - only this function needs it

    folder = cache / "web" / sha256(address.encode()).hexdigest()[:16]
    name = PurePosixPath(urlsplit(address).path).name or "data"
    known = checksum and f"sha256:{checksum}"
    with _only_one(folder):
        try:
            # pooch loads beside the target and renames.
            pooch.retrieve(address, known, fname=name, path=folder, downloader=pooch.HTTPDownloader(timeout=CONNECT_SECONDS))
        except (OSError, ValueError) as error:
            legal = f"or put the file at {folder / name}"
            raise DataError("url", address, f"cannot be fetched: {error}", legal) from error
    return folder / name


def torchvision_dataset(name: str, cache: Path) -> Path:
    """Fetch a dataset of torchvision through its class, unless the cache holds it.

    A download is moved into place when it is complete. Files that somebody put there are taken as they are.

    Args:
        name: Name of a class in `torchvision.datasets`.
        cache: Folder of downloads.

    Returns:
        The folder to be given to that class as its `root`.

    Raises:
        DataError: The class has no download, or its servers cannot be reached; the text names the files and where to put them.

    """
    root = cache / "torchvision" / name
    with _only_one(root):
        if not root.exists():
            partial = root.with_name(f".{name}.partial")
            _download_by_class(name, partial, root)
            partial.replace(root)
    return root


def _download_by_class(name: str, partial: Path, root: Path) -> None:
    torchvision_guard.install()
    from torchvision import datasets  # noqa: PLC0415 - takes a second

    dataset = getattr(datasets, name)
    parameters = inspect.signature(dataset.__init__).parameters
    if "download" not in parameters:
        raise DataError(
            "url", f"torchvision://{name}", "this class has no download", "legal: put the data in a folder and use file://"
        )
    partial.mkdir(parents=True, exist_ok=True)
    try:
        with _finite_sockets():
            for part in _parts(parameters):
                dataset(root=str(partial), download=True, **part)
    except (OSError, RuntimeError, TypeError) as error:
        cause = " ".join(str(error).split())
        raise DataError("url", f"torchvision://{name}", f"cannot be fetched: {cause}", _by_hand(dataset, root)) from error


def _parts(parameters: Any) -> list[dict[str, Any]]:
    """Return the arguments that ask for the training and for the test part."""
    if "train" in parameters:
        return [{"train": True}, {"train": False}]
    if "split" in parameters:
        return [{"split": "train"}, {"split": "test"}]
    return [{}]


def _by_hand(dataset: Any, root: Path) -> str:
    """Say which files to put where if the servers of a torchvision class cannot be reached."""
    if hasattr(dataset, "resources"):
        names = ", ".join(PurePosixPath(file).name for file, _ in dataset.resources)
        return f"or put {names} (packed or unpacked) into {root / dataset.__name__ / 'raw'}"
    if hasattr(dataset, "base_folder"):
        return f"or unpack {getattr(dataset, 'url', dataset.__name__)} so that {root / dataset.base_folder} exists"
    return f"or make {root} a folder that torchvision.datasets.{dataset.__name__}(root) can read"


@contextmanager
def _finite_sockets() -> Iterator[None]:
    """Limit the waits of torchvision's downloads: it uses urllib without a limit, and this is the only handle on it."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(CONNECT_SECONDS)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


@contextmanager
def _only_one(target: Path) -> Iterator[None]:
    """Hold the lock of one entry of the cache.

    Raises:
        DataError: The folder cannot be written to, or another process kept the lock too long.

    """
    lock = target.with_name(f".{target.name}.lock")
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(lock, timeout=LOCK_SECONDS):
            yield
    except Timeout as error:
        raise DataError("cache", str(lock), f"another process has held this lock for {LOCK_SECONDS:.0f} s") from error
    except OSError as error:
        raise DataError("cache", str(lock.parent), f"cannot be written to: {error}") from error
