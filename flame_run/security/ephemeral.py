"""Certificates for one job on one machine: the CA's key never leaves the memory of the runner, and is forgotten at once."""

import shutil
from collections.abc import Iterable
from datetime import timedelta
from pathlib import Path

from flame_run.security.authority import Authority
from flame_run.security.names import CONTROLLER, role_of
from flame_run.security.private import make_private_folder, write_private, write_public


def make_bundles(folder: Path, workers: Iterable[str], lifetime: timedelta) -> None:
    """Make a bundle in `folder/NAME` for the controller and for each worker; what was in `folder` is gone."""
    remove_bundles(folder)
    make_private_folder(folder)
    authority = Authority.create(lifetime)
    for name in (CONTROLLER, *workers):
        issued = authority.issue(role_of(name), name, lifetime)
        bundle = folder / name
        make_private_folder(bundle)
        write_private(bundle / "key.pem", issued.key_pem)
        write_public(bundle / "cert.pem", issued.cert_pem)
        write_public(bundle / "ca.pem", authority.cert_pem)


def remove_bundles(folder: Path) -> None:
    """Remove what `make_bundles` has made."""
    if folder.is_dir():
        shutil.rmtree(folder)
