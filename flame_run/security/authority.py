"""A certificate authority of one job: makes certificates for its workers, and lists those that are revoked."""

import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from flame_run.security.identity import Identity

CLOCK_SKEW = timedelta(minutes=5)
"""How far the clock of another machine may be behind."""
_USES = (
    "digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
    "key_cert_sign", "crl_sign", "encipher_only", "decipher_only",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Issued:
    """A certificate and its key, as PEM."""

    certificate: x509.Certificate
    cert_pem: bytes
    key_pem: bytes


class Authority:
    """Signs with the key of a CA certificate.

    Args:
        certificate: of the CA.
        key: its key, ECDSA.
    """

    def __init__(self, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> None:
        self.certificate = certificate
        self._key = key

    @property
    def domain(self) -> str:
        """What the identities that it certifies have in common."""
        return str(self.certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value)

    @classmethod
    def create(cls, lifetime: timedelta) -> "Authority":
        """A new CA with a random domain of its own."""
        domain = f"job-{secrets.token_hex(8)}"
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, domain)])
        builder = _builder(name, name, key, lifetime)
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        builder = builder.add_extension(_key_usage("key_cert_sign", "crl_sign"), critical=True)
        builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        return cls(builder.sign(key, hashes.SHA256()), key)

    @property
    def cert_pem(self) -> bytes:
        """The CA certificate."""
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    @property
    def key_pem(self) -> bytes:
        """The CA's key, not encrypted."""
        return _key_pem(self._key)

    def issue(self, role: str, name: str, lifetime: timedelta) -> Issued:
        """A certificate with a new key, for both ends of a connection; never valid for longer than the CA itself."""
        identity = Identity(self.domain, role, name)
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, identity.name[:64])])
        builder = _builder(subject, self.certificate.subject, key, lifetime, self.certificate.not_valid_after_utc)
        builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        builder = builder.add_extension(_key_usage("digital_signature"), critical=True)
        purposes = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        builder = builder.add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
        names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(identity.uri), x509.DNSName("worker.flame-run")])
        builder = builder.add_extension(names, critical=False)
        builder = builder.add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
        certificate = builder.sign(self._key, hashes.SHA256())
        return Issued(certificate, certificate.public_bytes(serialization.Encoding.PEM), _key_pem(key))

    def revocation_list(self, serials: Iterable[int]) -> bytes:
        """A list (PEM) of the certificates with these serial numbers; good for as long as the CA."""
        now = datetime.now(UTC)
        builder = x509.CertificateRevocationListBuilder().issuer_name(self.certificate.subject)
        builder = builder.last_update(now - CLOCK_SKEW).next_update(self.certificate.not_valid_after_utc)
        for serial in sorted(set(serials)):
            entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(now - CLOCK_SKEW).build()
            builder = builder.add_revoked_certificate(entry)
        return builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, lifetime: timedelta, latest: datetime | None = None
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    end = now + lifetime if latest is None else min(now + lifetime, latest)
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key.public_key())
    builder = builder.serial_number(x509.random_serial_number())
    return builder.not_valid_before(min(now, end) - CLOCK_SKEW).not_valid_after(end)


def _key_usage(*uses: str) -> x509.KeyUsage:
    return x509.KeyUsage(**{use: use in uses for use in _USES})


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    encoding, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    return key.private_bytes(encoding, form, serialization.NoEncryption())
