"""Whom a process believes: certificates of its domain that are in their time and not revoked."""

import threading
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature

from flame_run.security.errors import SecurityError
from flame_run.security.identity import Identity, identity_of
from flame_run.security.names import role_of
from flame_run.words import readable

_Stamp = tuple[int, int, int]
_MARK = b"-----BEGIN X509 CRL-----"


class Revoked:
    """The revocation lists of a file (PEM, one or more), read again whenever the file changes.

    Args:
        path: the file; while it is not there nothing is revoked.
        issuers: the certificates of CAs whose lists count.
    """

    def __init__(self, path: Path, issuers: Sequence[x509.Certificate]) -> None:
        self.path = path
        self._issuers = tuple(issuers)
        self._lock = threading.Lock()
        self._stamp: _Stamp | None = None
        self._lists: tuple[x509.CertificateRevocationList, ...] = ()

    def lists(self) -> tuple[x509.CertificateRevocationList, ...]:
        """The lists as the file is now.

        Raises:
            SecurityError: it holds something else, or a list that none of the CA certificates signed.
        """
        with self._lock:
            try:
                status = self.path.stat()
                stamp = status.st_mtime_ns, status.st_size, status.st_ino
                if stamp != self._stamp:
                    self._lists = self._parsed(self.path.read_bytes())
                    self._stamp = stamp
            except FileNotFoundError:
                self._stamp, self._lists = None, ()
            except OSError as error:
                raise SecurityError(f"{self.path} cannot be read: {error.strerror}") from error
            return self._lists

    def holds(self, certificate: x509.Certificate) -> bool:
        """Whether a list of the certificate's issuer names it.

        Raises:
            SecurityError: as `lists`.
        """
        lists = self.lists()
        try:
            return any(
                each.issuer == certificate.issuer
                and each.get_revoked_certificate_by_serial_number(certificate.serial_number) is not None
                for each in lists
            )
        except ValueError as error:
            raise SecurityError(f"{self.path} or the certificate cannot be read: {error}") from error

    def _parsed(self, data: bytes) -> tuple[x509.CertificateRevocationList, ...]:
        try:
            lists = tuple(x509.load_pem_x509_crl(_MARK + part) for part in data.split(_MARK)[1:])
        except ValueError as error:
            raise SecurityError(f"{self.path} is not a revocation list: {error}") from error
        if not lists:
            raise SecurityError(f"{self.path} is not a revocation list: it holds no {_MARK.decode()}")
        for each in lists:
            if not any(_signed(each, issuer) for issuer in self._issuers):
                raise SecurityError(f"{self.path} holds a list that no CA certificate of ours has signed ({_issuer(each)})")
        return lists


def _issuer(crl: x509.CertificateRevocationList) -> str:
    try:
        return crl.issuer.rfc4514_string()
    except ValueError:
        return "whose issuer cannot be read"


def _signed(crl: x509.CertificateRevocationList, issuer: x509.Certificate) -> bool:
    try:
        return crl.issuer == issuer.subject and crl.is_signature_valid(issuer.public_key())  # type: ignore[arg-type]
    except (InvalidSignature, TypeError, ValueError):
        return False


class Trust:
    """Judges certificates that TLS has found to be of the right CA.

    Args:
        domain: of the process's own certificate; that of its peers must be the same.
        revoked: the revocation lists.
    """

    def __init__(self, domain: str, revoked: Revoked) -> None:
        self._domain = domain
        self._revoked = revoked

    def why_not(self, certificate: x509.Certificate, name: str | None = None) -> str | None:
        """Why the holder of `certificate` is not to be spoken with as `name` (None: as whatever it says); None if it is.

        Fails closed: revocation lists that cannot be read are a reason. What a certificate says of itself comes readable.
        """
        reason = self._judge(certificate, name)
        return None if reason is None else readable(reason)

    def _judge(self, certificate: x509.Certificate, name: str | None) -> str | None:
        try:
            identity = identity_of(certificate)
            revoked = self._revoked.holds(certificate)
        except (ValueError, SecurityError) as error:
            return f"its certificate cannot be judged: {error}"
        if not certificate.not_valid_before_utc <= datetime.now(UTC) <= certificate.not_valid_after_utc:
            return f"the certificate of {identity} is not valid now: {period(certificate)}"
        if revoked:
            return f"the certificate of {identity} is revoked (serial {certificate.serial_number:x})"
        return self._misfit(identity, name)

    def _misfit(self, identity: Identity, name: str | None) -> str | None:
        if identity.domain != self._domain:
            return f"the certificate of {identity} is not of {self._domain}"
        if identity.role != role_of(identity.name):
            return f"the certificate names {identity}, and no worker of that name has that role"
        if name is not None and identity.name != name:
            return f"the certificate is of {identity}, not of {name}"
        return None


def period(certificate: x509.Certificate) -> str:
    """From when to when a certificate is valid, in UTC."""
    return f"{certificate.not_valid_before_utc:%Y-%m-%d %H:%M} to {certificate.not_valid_after_utc:%Y-%m-%d %H:%M} UTC"
