"""Certificates and revocation lists as others show them."""

from collections.abc import Iterable, Mapping
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from flame_run.security.authority import Authority
from flame_run.security.bundle import dns_name
from flame_run.security.errors import BundleError, SecurityError
from flame_run.security.names import role_of
from flame_run.security.private import write_private, write_public
from flame_run.security.tls import TlsSecurity
from flame_run.security.trust import Revoked
from tests.fuzz.engine import Target, scratch

DAY = timedelta(days=1)


class Caller:
    """The other side of a stream, as gRPC shows it after the handshake."""

    def __init__(self, certificate: bytes, looks: bytes) -> None:
        self._certificate = certificate
        self._looks = looks

    def peer(self) -> str:
        """Where it comes from."""
        return "ipv4:127.0.0.1:1"

    def auth_context(self) -> Mapping[str, Iterable[bytes]]:
        """What TLS has found out."""
        return {"x509_pem_cert": [self._certificate]} if self._certificate else {}

    def invocation_metadata(self) -> Iterable[tuple[str, str | bytes]]:
        """What it says of itself."""
        return (("flame-run-looks", self._looks.decode("ascii", "replace")),)


def _bundle(folder: Path, authority: Authority, name: str) -> bytes:
    """Make a bundle; returns the certificate, PEM."""
    folder.mkdir()
    issued = authority.issue(role_of(name), name, DAY)
    write_private(folder / "key.pem", issued.key_pem)
    write_public(folder / "cert.pem", issued.cert_pem)
    write_public(folder / "ca.pem", authority.cert_pem)
    return issued.cert_pem


def _der(pem: bytes) -> bytes:
    return x509.load_pem_x509_certificate(pem).public_bytes(Encoding.DER)


def certificate() -> Target:
    """A certificate (DER behind a byte that says how long `looks` is), judged where we listen and where we connect."""
    folder = scratch()
    authority = Authority.create(10 * DAY)
    shown = _bundle(folder / "trainer-0", authority, "trainer-0")
    security = TlsSecurity(folder / "trainer-0", "trainer-0")

    def run(data: bytes) -> None:
        length = data[0] * 40 if data else 0
        looks, der = data[1 : 1 + length], data[1 + length :]
        try:
            read = x509.load_der_x509_certificate(der)
            pem = read.public_bytes(Encoding.PEM)
        except (ValueError, TypeError):
            # As it is: perhaps the text that gRPC hands over.
            assert security.why_not(Caller(der, looks)) is not None or b"-----BEGIN" in der
            return
        for name in (None, "trainer-0", "trainer-1"):
            said = security.why_not(Caller(pem, looks), name)
            assert said is None or said.isprintable() or "\n" in said
        with suppress(BundleError, ValueError):
            dns_name(read, "a certificate")

    foreign = Authority.create(DAY).issue("trainer", "trainer-1", DAY).cert_pem
    seeds = [b"\0" + _der(shown), b"\0" + _der(foreign), b"\0" + _der(authority.cert_pem), b"\1" + b"7" * 40 + _der(shown)]
    return Target(name="certificate", run=run, seeds=[*seeds, b"\xff" + b"9" * 10_200, b"\0" + shown], megabytes=64)


def revocations() -> Target:
    """A file of revocation lists."""
    folder = scratch()
    authority = Authority.create(10 * DAY)
    shown = x509.load_pem_x509_certificate(_bundle(folder / "trainer-0", authority, "trainer-0"))
    issuer = x509.load_pem_x509_certificate(authority.cert_pem)
    path = folder / "crl.pem"

    def run(data: bytes) -> None:
        path.write_bytes(data)
        revoked = Revoked(path, [issuer])
        with suppress(SecurityError):
            revoked.holds(shown)

    lists = [authority.revocation_list([shown.serial_number]), authority.revocation_list([]), authority.cert_pem]
    return Target(name="revocations", run=run, seeds=[*lists, lists[0] * 3, b"-----BEGIN X509 CRL-----\n"], megabytes=64)
