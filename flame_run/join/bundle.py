"""The bundle of a worker: the folder that lets a site join a job as that worker.

| file | content |
| --- | --- |
| `token` | the job token, one line; mode 0600 |
| `bundle.json` | `{"worker", "role", "job", "address"}`, each of them optional |
| `ca.pem`, `cert.pem`, `key.pem` | with `security=tls`, see `flame_run.security` |
"""

import json
import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from flame_run.errors import InvalidConfig, Problem
from flame_run.security.errors import SecurityError
from flame_run.security.private import make_private_folder, read_private, write_private, write_public

TOKEN, CARD = "token", "bundle.json"  # names of files
LONGEST = 4096
"""Characters of a token."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """What `bundle.json` says."""

    worker: str | None = None
    role: str | None = None
    job: str | None = None
    """Name of the job, for people."""
    address: str | None = None
    """`host:port` of the controller."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """A bundle that was read."""

    folder: Path
    token: str
    card: Card


def make_token(folder: Path) -> Path:
    """Write a new random token to `folder/token`, for `security.token_file` and for the bundles of the sites.

    Raises:
        InvalidConfig: there is one already, or it cannot be written.
    """
    path = folder / TOKEN
    if path.exists():
        raise InvalidConfig([Problem("flame-run token", str(path), "there is a file already", "a folder without one")])
    try:
        make_private_folder(folder)
        write_private(path, f"{secrets.token_hex(32)}\n".encode())
    except OSError as error:
        raise InvalidConfig([Problem("flame-run token", str(path), f"cannot be written: {error.strerror}")]) from error
    return path


def read_token(path: Path, where: str) -> str:
    """Read the token of a file; `where` says in a message who named it.

    Raises:
        InvalidConfig: no such file, others may read it, or it holds no token.
    """
    try:
        text = read_private(path).decode("ascii").strip()
    except SecurityError as error:
        raise InvalidConfig([Problem(where, str(path), str(error), "a file of mode 0600 that holds the job token")]) from error
    except UnicodeDecodeError:
        text = ""
    if not 0 < len(text) <= LONGEST or not text.isprintable() or " " in text:
        raise InvalidConfig([Problem(where, str(path), "it holds no token", "one line of printable characters without spaces")])
    return text


def write_bundle(folder: Path, card: Card, token: str) -> None:
    """Make a bundle in a new folder of mode 0700.

    Raises:
        OSError: it cannot be made.
    """
    make_private_folder(folder)
    write_private(folder / TOKEN, f"{token}\n".encode())
    content = {key: value for key, value in asdict(card).items() if value is not None}
    write_public(folder / CARD, (json.dumps(content, indent=2) + "\n").encode())


def read_bundle(folder: Path) -> Bundle:
    """Read a bundle; `bundle.json` may be missing.

    Raises:
        InvalidConfig: it cannot be read, or is none.
    """
    if not folder.is_dir():
        raise InvalidConfig([Problem("--bundle", str(folder), "there is no such folder")])
    return Bundle(folder=folder, token=read_token(folder / TOKEN, "--bundle"), card=_read_card(folder / CARD))


def _read_card(path: Path) -> Card:
    if not path.exists():
        return Card()
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InvalidConfig([Problem("--bundle", str(path), f"it cannot be read: {error}")]) from error
    if not isinstance(content, Mapping):
        raise InvalidConfig([Problem("--bundle", str(path), "it holds no JSON object")])
    known = {key: content.get(key) for key in ("worker", "role", "job", "address")}
    wrong = [
        Problem(f"{path.name}: {key}", value, "not a text")
        for key, value in known.items()
        if value is not None and not isinstance(value, str)
    ]
    if wrong:
        raise InvalidConfig(wrong)
    return Card(**known)
