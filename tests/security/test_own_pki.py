"""Certificates of somebody's own PKI: a root kept apart, a CA between it and the workers, RSA keys, other names beside ours."""

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import grpc.aio
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID

from flame_run.security.bundle import load_bundle
from flame_run.security.errors import BundleError
from flame_run.security.private import write_private
from flame_run.security.tls import TlsSecurity

NOW = datetime.now(UTC)
PEM = serialization.Encoding.PEM
OURS = x509.UniformResourceIdentifier


class Ca:
    """A CA as a company has one; `above` has signed it."""

    def __init__(self, name: str, above: "Ca | None" = None) -> None:
        self.key = rsa.generate_private_key(65537, 2048)
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        builder = (above or self).builder(self.name, self.key)
        self.certificate = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True).sign(
            (above or self).key, hashes.SHA256()
        )

    def builder(self, subject: x509.Name, key: rsa.RSAPrivateKey) -> x509.CertificateBuilder:
        builder = x509.CertificateBuilder().subject_name(subject).issuer_name(self.name).public_key(key.public_key())
        return builder.serial_number(x509.random_serial_number()).not_valid_before(NOW).not_valid_after(NOW + timedelta(days=1))

    def bundle(self, folder: Path, root: "Ca", *names: x509.GeneralName) -> Path:
        folder.mkdir()
        key = rsa.generate_private_key(65537, 2048)
        builder = self.builder(x509.Name([]), key).add_extension(x509.SubjectAlternativeName(names), critical=True)
        leaf = builder.sign(self.key, hashes.SHA256())
        (folder / "cert.pem").write_bytes(leaf.public_bytes(PEM) + self.certificate.public_bytes(PEM))
        (folder / "ca.pem").write_bytes(root.certificate.public_bytes(PEM))
        form, plain = serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
        write_private(folder / "key.pem", key.private_bytes(PEM, form, plain))
        return folder

    def revocation_list(self, serial: int) -> bytes:
        builder = (
            x509.CertificateRevocationListBuilder().issuer_name(self.name).last_update(NOW).next_update(NOW + timedelta(days=1))
        )
        entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(NOW).build()
        return builder.add_revoked_certificate(entry).sign(self.key, hashes.SHA256()).public_bytes(PEM)


@pytest.fixture(scope="module")
def root() -> Ca:
    return Ca("company root")


@pytest.fixture(scope="module")
def issuing(root: Ca) -> Ca:
    return Ca("company workers", root)


def names(uri: str) -> tuple[x509.GeneralName, ...]:
    spiffe, host = x509.UniformResourceIdentifier("spiffe://company/ml"), x509.DNSName("*.ml.company.example")
    return spiffe, x509.UniformResourceIdentifier(uri), host


async def said_over_tls(server: TlsSecurity, client: TlsSecurity, name: str) -> bytes:
    """What the server says to the client, which it takes for `name`, once each believes the other."""

    async def speak(_: object, context: grpc.aio.ServicerContext[bytes, bytes]) -> None:
        await context.write(str(server.why_not(context) or server.why_not(context, name) or "welcome").encode())

    listening = grpc.aio.server()
    handler: grpc.RpcMethodHandler[bytes, bytes] = grpc.stream_stream_rpc_method_handler(speak)
    listening.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("S", {"M": handler}),))
    port = server.listen(listening, "127.0.0.1:0", lambda _: None)
    await listening.start()
    try:
        async with await client.connect(f"127.0.0.1:{port}", server.bundle.identity.name, []) as channel:
            async with asyncio.timeout(20):
                heard = await channel.stream_stream("/S/M")(iter(())).read()
            assert isinstance(heard, bytes)
            return heard
    finally:
        await listening.stop(0)


def test_workers_of_an_intermediate_ca_believe_each_other_until_it_revokes_one(root: Ca, issuing: Ca, tmp_path: Path) -> None:
    host = issuing.bundle(tmp_path / "host", root, *names("flame-run://company/aggregator/aggregator-0"))
    peer = issuing.bundle(tmp_path / "peer", root, *names("flame-run://company/trainer/trainer-0"))
    server, client = TlsSecurity(host, "aggregator-0"), TlsSecurity(peer, "trainer-0")
    assert asyncio.run(said_over_tls(server, client, "trainer-0")) == b"welcome"
    assert b"not of trainer-1" in asyncio.run(said_over_tls(server, client, "trainer-1"))
    serial = load_bundle(peer, "trainer-0").certificate.serial_number
    (host / "crl.pem").write_bytes(issuing.revocation_list(serial))
    assert b"is revoked" in asyncio.run(said_over_tls(server, client, "trainer-0"))


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ((x509.DNSName("trainer-0.company.example"),), "its URI names are not one flame-run://DOMAIN/ROLE/NAME: none"),
        (names("flame-run://company/trainer"), "its URI names are not one flame-run://DOMAIN/ROLE/NAME"),
        ((*names("flame-run://company/trainer/trainer-0"), OURS("flame-run://company/trainer/trainer-1")), "are not one"),
        ((OURS("flame-run://company/trainer/trainer-0"),), "has no DNS name"),
    ],
)
def test_a_certificate_whose_names_are_not_as_documented_is_refused(
    root: Ca, issuing: Ca, tmp_path: Path, wrong: tuple[x509.GeneralName, ...], reason: str
) -> None:
    with pytest.raises(BundleError, match=reason):
        load_bundle(issuing.bundle(tmp_path / "bundle", root, *wrong), "trainer-0")
