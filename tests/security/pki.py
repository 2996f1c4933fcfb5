"""Certificates of every kind for tests: good, foreign, expired, revoked, of somebody else."""

import logging
import queue
from datetime import timedelta
from pathlib import Path

from flame_run.security.authority import Authority, Issued
from flame_run.security.names import CONTROLLER, role_of
from flame_run.security.private import make_private_folder, write_private, write_public

DAY = timedelta(days=1)


class Pki:
    """A CA and a folder of bundles."""

    def __init__(self, folder: Path, authority: Authority | None = None) -> None:
        self.folder = folder
        self.authority = authority or Authority.create(10 * DAY)

    def bundle(self, name: str, *, role: str | None = None, lifetime: timedelta = DAY, folder: str | None = None) -> Path:
        """A bundle of `name` in a folder of that name, or another."""
        issued = self.issue(name, role=role, lifetime=lifetime)
        path = self.folder / (folder or name)
        make_private_folder(path)
        write_private(path / "key.pem", issued.key_pem)
        write_public(path / "cert.pem", issued.cert_pem)
        write_public(path / "ca.pem", self.authority.cert_pem)
        return path

    def issue(self, name: str, *, role: str | None = None, lifetime: timedelta = DAY) -> Issued:
        return self.authority.issue(role if role is not None else role_of(name), name, lifetime)

    def bundles(self, *names: str) -> Path:
        """Bundles for the controller and these workers."""
        for name in (CONTROLLER, *names):
            self.bundle(name)
        return self.folder

    def revoke(self, *bundles: Path) -> bytes:
        """A revocation list with the certificates of these bundles."""
        from flame_run.security.bundle import load_bundle

        serials = [load_bundle(path, path.name).certificate.serial_number for path in bundles]
        return self.authority.revocation_list(serials)


class Warned(logging.Handler):
    """Waits for what is logged as a warning."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._texts: queue.SimpleQueue[str] = queue.SimpleQueue()

    def emit(self, record: logging.LogRecord) -> None:
        self._texts.put(record.getMessage())

    def wait(self, part: str, timeout: float = 60.0) -> str:
        """The next warning that holds `part`; those before it are dropped."""
        while part not in (text := self._texts.get(timeout=timeout)):
            pass
        return text
