"""A bundle: the folder with one worker's certificate, its key, and the CA certificates that it believes.

ca.pem    CA certificates (PEM, one or more)
cert.pem  the worker's certificate, and those between it and the CA where there are such
key.pem   its key, not encrypted, mode 0600
crl.pem   revocation lists; optional, read again whenever it changes

Of a certificate of your own PKI this is asked: among its subject alternative names the URI `flame-run://DOMAIN/ROLE/NAME`
(percent-encoded; the same DOMAIN for everybody of the job; `controller/controller` for the runner) and any DNS name; where it
limits its uses, those of a TLS server and of a client.
"""

from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes

from flame_run.security.errors import BundleError, SecurityError
from flame_run.security.identity import Identity, alternative_names, identity_of
from flame_run.security.private import read_private
from flame_run.security.trust import Revoked, Trust

_LONGEST_CHAIN = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """What a process needs to speak TLS as one worker. The key stays in its file and in gRPC."""

    folder: Path
    ca: Path
    cert: Path
    key: Path
    authorities: tuple[x509.Certificate, ...]
    certificate: x509.Certificate
    identity: Identity
    revoked: Revoked

    @property
    def trust(self) -> Trust:
        """Judges the certificates of peers."""
        return Trust(self.identity.domain, self.revoked)

    def why_not(self) -> str | None:
        """Why nobody would speak with the holder of this bundle now; None if they would."""
        return self.trust.why_not(self.certificate, self.identity.name)


def load_bundle(folder: Path, name: str, *, ca: Path | None = None, crl: Path | None = None) -> Bundle:
    """Read the bundle of worker `name` (or of the controller).

    Args:
        folder: holds `cert.pem` and `key.pem`.
        name: who the certificate has to be of.
        ca: CA certificates instead of `folder/ca.pem`.
        crl: revocation lists instead of `folder/crl.pem`.

    Raises:
        BundleError: a file that is missing, cannot be read, is open to others, or does not fit the others. A
            certificate that is no longer good is read all the same, see `Bundle.why_not`.
    """
    ca, cert, key = ca or folder / "ca.pem", folder / "cert.pem", folder / "key.pem"
    authorities, chain = _certificates(ca), _certificates(cert)
    leaf = chain[0]
    try:
        identity = identity_of(leaf)
    except ValueError as error:
        raise BundleError(f"{cert} is no certificate of a worker: {error}") from error
    if identity.name != name:
        raise BundleError(f"{cert} is the certificate of {identity}, not of {name}")
    dns_name(leaf, cert)
    if _public_bytes(_key(key)) != _public_bytes(leaf):
        raise BundleError(f"{key} is not the key of {cert}")
    if not _leads_to(leaf, chain[1:], authorities):
        raise BundleError(f"{cert} was not issued by a CA certificate of {ca}")
    revoked = Revoked(crl or folder / "crl.pem", (*authorities, *chain[1:]))
    try:
        revoked.lists()
    except SecurityError as error:
        raise BundleError(str(error)) from error
    return Bundle(
        folder=folder, ca=ca, cert=cert, key=key, authorities=authorities, certificate=leaf, identity=identity, revoked=revoked
    )


def dns_name(certificate: x509.Certificate, where: object) -> str:
    """A host name that the certificate is good for. Any will do: the URI says who it is, but gRPC wants to compare one.

    Raises:
        BundleError: it has none.
    """
    names = alternative_names(certificate)
    hosts = [] if names is None else names.get_values_for_type(x509.DNSName)
    if not hosts:
        raise BundleError(f"{where} has no DNS name among its subject alternative names; any one will do")
    return hosts[0].replace("*", "any")


def _certificates(path: Path) -> tuple[x509.Certificate, ...]:
    try:
        return tuple(x509.load_pem_x509_certificates(path.read_bytes()))
    except OSError as error:
        raise BundleError(f"{path} cannot be read: {error.strerror}; `flame-run certs` makes bundles") from error
    except ValueError as error:
        raise BundleError(f"{path} is not a certificate in PEM: {error}") from error


def _key(path: Path) -> PrivateKeyTypes:
    try:
        return serialization.load_pem_private_key(read_private(path), password=None)
    except SecurityError as error:
        raise BundleError(str(error)) from error
    except TypeError as error:
        raise BundleError(f"{path} is encrypted; it has to be a plain key of mode 0600") from error
    except ValueError:
        # Not chained and not quoted: what the parser says may hold pieces of the key.
        raise BundleError(f"{path} is not a private key in PEM") from None


def _public_bytes(holder: PrivateKeyTypes | x509.Certificate) -> bytes:
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return holder.public_key().public_bytes(serialization.Encoding.DER, form)


def _leads_to(leaf: x509.Certificate, between: tuple[x509.Certificate, ...], authorities: tuple[x509.Certificate, ...]) -> bool:
    current = leaf
    for _ in range(_LONGEST_CHAIN):
        if any(_issued(current, authority) for authority in authorities):
            return True
        above = next((each for each in between if each != current and _issued(current, each)), None)
        if above is None:
            return False
        current = above
    return False


def _issued(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True
