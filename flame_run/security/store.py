"""The folder that `flame-run certs` keeps: a CA for one job or federation, and a bundle for everybody in it.

ca.pem, ca.key   the CA; the key stays here (0600)
crl.pem          who is revoked
token            the job token (0600)
issued.json      every certificate that was ever issued here
NAME/            the bundle of one worker, or of `controller`: ca.pem cert.pem key.pem crl.pem token bundle.json
"""

import json
import secrets
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from flame_run.security.authority import Authority
from flame_run.security.errors import SecurityError
from flame_run.security.private import make_private_folder, read_private, write_private, write_public

CA_LIFETIME = timedelta(days=3650)


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One certificate that was issued."""

    name: str
    role: str
    serial: str
    """Hexadecimal."""
    expires: str
    """ISO 8601, UTC."""
    revoked: bool = False

    def state(self, now: datetime) -> str:
        """`revoked`, `expired` or `valid`."""
        if self.revoked:
            return "revoked"
        return "expired" if datetime.fromisoformat(self.expires) < now else "valid"


class Store:
    """A CA, what it has issued, and the bundles, in one folder.

    Args:
        path: the folder; `create` makes it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._index = path / "issued.json"

    def create(self, job: str) -> None:
        """Make the CA and the token of job `job`, unless they are there."""
        make_private_folder(self.path)
        if self._index.exists():
            return
        authority = Authority.create(CA_LIFETIME)
        write_private(self.path / "ca.key", authority.key_pem)
        write_public(self.path / "ca.pem", authority.cert_pem)
        write_private(self.path / "token", secrets.token_hex(32).encode())
        write_public(self.path / "crl.pem", authority.revocation_list(()))
        self._write(job, [])

    @property
    def entries(self) -> list[Entry]:
        """Every certificate issued, in order.

        Raises:
            SecurityError: the folder is none that `create` made.
        """
        return self._read()[1]

    def current(self) -> dict[str, Entry]:
        """The newest certificate of each name."""
        return {entry.name: entry for entry in self.entries}

    def issue(self, role: str, name: str, lifetime: timedelta) -> Entry:
        """Make a certificate and a key for `name`, and its bundle; a bundle that was there gets the new ones."""
        job, entries = self._read()
        authority = self._authority()
        issued = authority.issue(role, name, lifetime)
        expires = issued.certificate.not_valid_after_utc.isoformat()
        entry = Entry(name=name, role=role, serial=f"{issued.certificate.serial_number:x}", expires=expires)
        bundle = self.path / name
        make_private_folder(bundle)
        # Noted before anybody can use it, so that whatever was issued can be revoked.
        self._write(job, [*entries, entry])
        write_private(bundle / "key.pem", issued.key_pem)
        write_public(bundle / "cert.pem", issued.cert_pem)
        write_public(bundle / "ca.pem", authority.cert_pem)
        write_public(bundle / "crl.pem", (self.path / "crl.pem").read_bytes())
        write_private(bundle / "token", read_private(self.path / "token"))
        about = {"worker": name, "role": role, "job": job, "expires": expires}
        write_public(bundle / "bundle.json", (json.dumps(about, indent=2) + "\n").encode())
        return entry

    def revoke(self, names: Iterable[str]) -> None:
        """Revoke every certificate that these workers have got so far; tells all bundles in this folder.

        Raises:
            SecurityError: a name that has none.
        """
        job, entries = self._read()
        lost = self._known(names, entries)
        entries = [replace(entry, revoked=entry.revoked or entry.name in lost) for entry in entries]
        self._write(job, entries)
        crl = self._authority().revocation_list(int(entry.serial, 16) for entry in entries if entry.revoked)
        write_public(self.path / "crl.pem", crl)
        for name in {entry.name for entry in entries}:
            if (self.path / name).is_dir():
                write_public(self.path / name / "crl.pem", crl)

    def renew(self, names: Iterable[str], lifetime: timedelta) -> list[Entry]:
        """Give these workers a new certificate and a new key.

        Raises:
            SecurityError: a name that has none yet.
        """
        current = self.current()
        return [self.issue(current[name].role, name, lifetime) for name in sorted(self._known(names, current.values()))]

    @staticmethod
    def _known(names: Iterable[str], entries: Iterable[Entry]) -> set[str]:
        wanted, known = set(names), {entry.name for entry in entries}
        if unknown := sorted(wanted - known):
            raise SecurityError(
                f"no certificate was issued to {', '.join(unknown)}; there are {', '.join(sorted(known)) or 'none'}"
            )
        return wanted

    def _authority(self) -> Authority:
        try:
            certificate = x509.load_pem_x509_certificate((self.path / "ca.pem").read_bytes())
            key = serialization.load_pem_private_key(read_private(self.path / "ca.key"), password=None)
        except OSError as error:
            raise SecurityError(f"{error.filename} cannot be read: {error.strerror}") from error
        except (ValueError, TypeError):
            raise SecurityError(f"{self.path} does not hold a CA: ca.pem or ca.key cannot be read") from None
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise SecurityError(f"{self.path / 'ca.key'} is not a key that flame-run made")
        return Authority(certificate, key)

    def _read(self) -> tuple[str, list[Entry]]:
        try:
            content = json.loads(self._index.read_text(encoding="utf-8"))
            return str(content["job"]), [Entry(**entry) for entry in content["issued"]]
        except FileNotFoundError as error:
            raise SecurityError(
                f"{self.path} holds no certificates; `flame-run certs {self.path} [overrides]` makes them"
            ) from error
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise SecurityError(f"{self._index} cannot be read: {error}") from error

    def _write(self, job: str, entries: Iterable[Entry]) -> None:
        content = {"job": job, "issued": [asdict(entry) for entry in entries]}
        write_public(self._index, (json.dumps(content, indent=2) + "\n").encode())


def table(entries: Iterable[Entry]) -> str:
    """The certificates as lines of text, with what is left of their time."""
    now = datetime.now(UTC)
    rows = [("name", "role", "state", "expires (UTC)", "days left", "serial")]
    for entry in entries:
        expires = datetime.fromisoformat(entry.expires)
        days = str(max(0, (expires - now).days))
        rows.append((entry.name, entry.role, entry.state(now), f"{expires:%Y-%m-%d %H:%M}", days, entry.serial[:16]))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)
