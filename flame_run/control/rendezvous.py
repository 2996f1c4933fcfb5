"""The rendezvous file: how a worker learns where the controller is and what the job token is.

The token travels only through this file, which nobody but its owner can read: never through arguments, overrides,
the environment or a configuration written to disk.
"""

import json
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from flame_run.control.errors import ControlError


class Rendezvous(NamedTuple):
    """Where the controller listens (`host:port`), the secret of the job, and with TLS where the certificates lie."""

    address: str
    token: str
    tls: Mapping[str, str | None] | None = None
    """Paths: `bundles`, and `ca` and `crl` where they are not in the bundles."""


def write_rendezvous(path: Path, address: str, token: str, tls: Mapping[str, str | None] | None = None) -> None:
    """Create `path` with mode 0600, whole or not at all.

    Raises:
        FileExistsError: something is there already; it is left untouched, also if it is a link.
    """
    draft = path.with_name(f"{path.name}.{secrets.token_hex(8)}.tmp")
    handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump({"address": address, "token": token, "tls": None if tls is None else dict(tls)}, file)
        # A hard link, unlike a rename, never replaces what stands there.
        os.link(draft, path)
    finally:
        draft.unlink()


def read_rendezvous(path: Path) -> Rendezvous:
    """Read what `write_rendezvous` wrote.

    Raises:
        ControlError: there is no such file, or it does not hold a rendezvous.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        address, token, tls = str(content["address"]), str(content["token"]), content.get("tls")
        return Rendezvous(address, token, None if tls is None else dict(tls))
    except FileNotFoundError as error:
        raise ControlError(f"no rendezvous file at {path}: the runner has ended, or its folder is not visible here") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ControlError(f"{path} is not a rendezvous file: {error}") from error
