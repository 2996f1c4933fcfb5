"""Files that tell whether they are whole: a line at their end holds the SHA-256 of all bytes before it. No torch in here.

Checkpoints of a root and states of workers are such files, named by their round. The line stands behind the zip archive that
`torch.save` writes, where readers of such archives do not look.
"""

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

_MARK = b"\nflame-run sha256 "
_LENGTH = len(_MARK) + 64 + 1
_NAME = re.compile(r"round-(\d+)\.pt")


@dataclass(frozen=True, slots=True)
class Found:
    """The newest whole file of a folder, and what was passed over on the way to it."""

    round: int
    """0: there is none."""
    path: Path | None
    torn: tuple[str, ...]
    """For each newer file that is not whole: its path and why."""


def seal(path: Path) -> None:
    """Append the line to a file."""
    with path.open("rb+") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        file.write(_MARK + digest.encode() + b"\n")


def broken(path: Path) -> str | None:
    """Why a file is not whole; None if it is.

    Raises:
        OSError: it cannot be read.
    """
    size = path.stat().st_size
    digest = hashlib.sha256()
    with path.open("rb") as file:
        left = max(0, size - _LENGTH)
        while left and (block := file.read(min(left, 2**20))):
            digest.update(block)
            left -= len(block)
        line = file.read(_LENGTH)
    if not line.startswith(_MARK) or not line.endswith(b"\n") or len(line) != _LENGTH:
        return "its end is missing"
    if line[len(_MARK) : -1] != digest.hexdigest().encode():
        return "its content does not match its digest"
    return None


def round_file(folder: Path, round: int) -> Path:
    """The file of `round` in a folder."""
    return folder / f"round-{round:05d}.pt"


def round_files(folder: Path) -> dict[int, Path]:
    """Round -> its file, whole or not, in ascending order."""
    found = ((_NAME.fullmatch(path.name), path) for path in folder.glob("round-*.pt"))
    return dict(sorted((int(match[1]), path) for match, path in found if match))


def newest_whole(folder: Path, at_most: int | None = None) -> Found:
    """The newest whole file of a folder, of a round up to `at_most` (None: any)."""
    torn: list[str] = []
    for round, path in reversed(round_files(folder).items()):
        if at_most is not None and round > at_most:
            continue
        reason = broken(path)
        if reason is None:
            return Found(round, path, tuple(torn))
        torn.append(f"{path} ({reason})")
    return Found(0, None, tuple(torn))
