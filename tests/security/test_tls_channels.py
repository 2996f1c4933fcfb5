"""Channels over TLS on real sockets: who gets in, who does not, and whom a worker connects to."""

import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import torch
from cryptography.hazmat.primitives.serialization import Encoding

from flame_run.security.bundle import load_bundle
from flame_run.security.tls import TlsSecurity
from tests.security.pki import DAY, Pki, Warned
from transports.base import Arrived, Backend, Channel, ChannelSpec
from transports.errors import AddressError, Refused
from transports.grpc_channel import frames
from transports.grpc_channel.endpoint import GrpcEndpoint
from transports.grpc_channel.host import Hello
from transports.grpc_channel.security import Clear, Security
from transports.message import Message

TOKEN = "the secret of this job"
HOST, FRIEND, THIEF = "aggregator-0", "trainer-0", "trainer-1"


class Site:
    """Makes endpoints with certificates, and closes them."""

    grace = 1000.0
    """Seconds until a connection that is still on its way counts as a stranger's."""

    def __init__(self, pki: Pki) -> None:
        self.pki = pki
        self.open: list[GrpcEndpoint] = []
        self.securities: list[TlsSecurity] = []

    def security(self, name: str, folder: Path | None = None) -> TlsSecurity:
        security = TlsSecurity(folder or self.pki.folder / name, name, grace=self.grace)
        self.securities.append(security)
        return security

    def endpoint(self, name: str, *, folder: Path | None = None, **options: Any) -> GrpcEndpoint:
        security: Security = options.pop("security", None) or self.security(name, folder)
        endpoint = GrpcEndpoint(name, security=security, **{"token": TOKEN, "join_timeout": 20.0, **options})
        self.open.append(endpoint)
        return endpoint

    def host(self, *ends: str, backend: Backend = "auto", **options: Any) -> tuple[GrpcEndpoint, Channel]:
        endpoint = self.endpoint(HOST, **options)
        return endpoint, endpoint.open(ChannelSpec(name="param", group="default", ends=ends, backend=backend))

    def dial(self, name: str, host: GrpcEndpoint, backend: Backend = "auto", **options: Any) -> Channel:
        endpoint = self.endpoint(name, **options)
        spec = ChannelSpec(name="param", group="default", ends=(HOST,), dials=frozenset({HOST}), backend=backend)
        channel = endpoint.open(spec)
        endpoint.connect({HOST: str(host.address)})
        return channel


@pytest.fixture
def site(pki: Pki) -> Iterator[Site]:
    pki.bundles(HOST, FRIEND, THIEF)
    site = Site(pki)
    yield site
    for endpoint in site.open:
        endpoint.close()


def exchange(center: Channel, spoke: Channel, round_: int) -> None:
    """Send a megabyte there and compare it."""
    sent = torch.arange(2**18, dtype=torch.float32) + round_
    delivery = spoke.send(Message(kind="update", round=round_, groups={"weights": {"w": sent}}), [HOST])
    event = center.receive(timeout=20)
    while not isinstance(event, Arrived):
        event = center.receive(timeout=20)
    got = event.offer.take(timeout=20)
    assert torch.equal(got.groups["weights"]["w"], sent)
    assert delivery.wait(20)[HOST].accepted


def call_as(name: str, address: str, credentials: grpc.ChannelCredentials | None, token: str = TOKEN) -> grpc.RpcError:
    """Open a stream as `name`; returns how it was refused."""
    options = [("grpc.ssl_target_name_override", "worker.flame-run"), ("grpc.use_local_subchannel_pool", 1)]
    hello = Hello(token.encode(), str(frames.VERSION), "param", "default", name)
    made = grpc.insecure_channel(address) if credentials is None else grpc.secure_channel(address, credentials, options)
    with made as channel:
        method: Any = channel.stream_stream(f"/{frames.SERVICE}/{frames.METHOD}")
        with pytest.raises(grpc.RpcError) as caught:
            list(method(iter(()), metadata=hello.metadata(), timeout=20))
    return caught.value


def credentials_of(bundle: Path | None, ca: Path) -> grpc.ChannelCredentials:
    """What a peer shows that holds the files of `bundle`."""
    own = (None, None) if bundle is None else ((bundle / "key.pem").read_bytes(), (bundle / "cert.pem").read_bytes())
    return grpc.ssl_channel_credentials((ca / "ca.pem").read_bytes(), *own)


@pytest.mark.parametrize("backend", ["grpc", "shm"])
def test_workers_with_certificates_exchange_the_same_bytes(site: Site, backend: Backend) -> None:
    endpoint, center = site.host(FRIEND, backend=backend)
    spoke = site.dial(FRIEND, endpoint, backend=backend)
    spoke.wait_joined(timeout=20)
    exchange(center, spoke, 1)
    for security in site.securities:
        security.close()
    assert [each.refused for each in site.open] == [0, 0]


Strange = Callable[[Pki, Pki], grpc.ChannelCredentials | None]
AT_THE_HANDSHAKE: dict[str, Strange] = {
    "no TLS at all": lambda pki, foreign: None,
    "no certificate": lambda pki, foreign: credentials_of(None, pki.folder / HOST),
    "a foreign CA": lambda pki, foreign: credentials_of(foreign.bundle(THIEF), pki.folder / HOST),
    "an expired certificate": lambda pki, foreign: credentials_of(
        pki.bundle(THIEF, lifetime=-DAY, folder="expired"), pki.folder / HOST
    ),
}


@pytest.mark.parametrize("what", AT_THE_HANDSHAKE)
def test_who_cannot_pass_the_handshake_is_refused_counted_and_logged_while_others_go_on(
    site: Site, foreign: Pki, what: str, warned: Warned
) -> None:
    endpoint, center = site.host(FRIEND, THIEF)
    spoke = site.dial(FRIEND, endpoint)
    spoke.wait_joined(timeout=20)
    error = call_as(THIEF, str(endpoint.address), AT_THE_HANDSHAKE[what](site.pki, foreign))
    assert error.code() is grpc.StatusCode.UNAVAILABLE
    for security in site.securities:
        security.close()  # which tells of those that have not become a stream
    warned.wait("refused 1 connection without TLS, or without a valid certificate of this job")
    assert endpoint.refused == 1
    exchange(center, spoke, 1)


def test_a_stolen_name_is_refused_by_the_certificate_that_goes_with_it(site: Site) -> None:
    endpoint, center = site.host(FRIEND, THIEF, "aggregator-1")
    spoke = site.dial(FRIEND, endpoint)
    spoke.wait_joined(timeout=20)
    stolen = credentials_of(site.pki.folder / THIEF, site.pki.folder / HOST)
    for name in (FRIEND, "aggregator-1"):
        error = call_as(name, str(endpoint.address), stolen)
        assert error.code() is grpc.StatusCode.PERMISSION_DENIED
        assert f"the certificate is of {THIEF} (role trainer" in str(error.details())
    assert endpoint.refused == 2
    exchange(center, spoke, 1)


def test_a_certificate_of_another_role_is_refused(site: Site) -> None:
    endpoint, _ = site.host("aggregator-1")
    folder = site.pki.bundle("aggregator-1", role="trainer")
    error = call_as("aggregator-1", str(endpoint.address), credentials_of(folder, folder))
    assert "no worker of that name has that role" in str(error.details())


def test_a_revoked_worker_is_refused_at_its_next_connection(site: Site) -> None:
    endpoint, center = site.host(FRIEND, THIEF)
    spoke = site.dial(FRIEND, endpoint)
    spoke.wait_joined(timeout=20)
    thief = site.dial(THIEF, endpoint)
    thief.wait_joined(timeout=20)
    (site.pki.folder / HOST / "crl.pem").write_bytes(site.pki.revoke(site.pki.folder / THIEF))
    error = call_as(THIEF, str(endpoint.address), credentials_of(site.pki.folder / THIEF, site.pki.folder / HOST))
    assert error.code() is grpc.StatusCode.PERMISSION_DENIED
    assert f"the certificate of {THIEF}" in str(error.details())
    assert "is revoked" in str(error.details())
    exchange(center, spoke, 1)


def test_a_certificate_does_not_replace_the_token(site: Site) -> None:
    endpoint, _ = site.host(FRIEND)
    error = call_as(FRIEND, str(endpoint.address), credentials_of(site.pki.folder / FRIEND, site.pki.folder / HOST), "a guess")
    assert error.code() is grpc.StatusCode.UNAUTHENTICATED


def test_a_stranger_who_says_nothing_is_counted_too(site: Site, warned: Warned) -> None:
    site.grace = 0.1
    endpoint, center = site.host(FRIEND)
    host, _, port = str(endpoint.address).rpartition(":")
    with socket.create_connection((host, int(port))):
        warned.wait("refused 1 connection without TLS")
    spoke = site.dial(FRIEND, endpoint)
    spoke.wait_joined(timeout=20)
    exchange(center, spoke, 1)


def impostor(site: Site, foreign: Pki, what: str) -> dict[str, Any]:
    """How somebody listens who is not the aggregator."""
    match what:
        case "a foreign CA":
            return {"security": TlsSecurity(foreign.bundle(HOST), HOST)}
        case "another worker":
            return {"security": TlsSecurity(site.pki.folder / THIEF, THIEF)}
        case "a revoked certificate":
            (site.pki.folder / FRIEND / "crl.pem").write_bytes(site.pki.revoke(site.pki.folder / HOST))
            return {}
        case _:
            return {"security": Clear()}


@pytest.mark.parametrize(
    ("what", "reason"),
    [
        ("a foreign CA", "certificate verify failed|unable to get local issuer|self-signed"),
        ("another worker", "the certificate is of trainer-1"),
        ("a revoked certificate", "is revoked"),
        ("no TLS", "it does not speak TLS as it should"),
    ],
)
def test_a_worker_does_not_join_whoever_listens_in_the_place_of_its_peer(site: Site, foreign: Pki, what: str, reason: str) -> None:
    endpoint, center = site.host(FRIEND, **impostor(site, foreign, what))
    spoke = site.dial(FRIEND, endpoint, join_timeout=3.0)
    with pytest.raises((AddressError, Refused), match=reason):
        spoke.wait_joined(timeout=20)
    assert not center.joined


def test_nobody_else_can_take_over_the_address_after_the_certificate_was_looked_at(site: Site) -> None:
    """gRPC believes the one certificate that was found good, not whatever the CA has signed."""
    security = site.security(FRIEND)
    endpoint, _ = site.host(FRIEND)
    other = site.pki.issue(HOST).certificate
    credentials, options = security._pinned(security._material, other.public_bytes(Encoding.DER), str(endpoint.address), HOST, [])
    with grpc.secure_channel(str(endpoint.address), credentials, options) as channel:
        method: Any = channel.stream_stream(f"/{frames.SERVICE}/{frames.METHOD}")
        with pytest.raises(grpc.RpcError) as caught:
            list(method(iter(()), timeout=20))
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


def test_a_renewed_certificate_is_used_from_the_next_connection_on(site: Site) -> None:
    endpoint, center = site.host(FRIEND, THIEF)
    old = site.pki.folder / "old"
    shutil.copytree(site.pki.folder / HOST, old)
    site.pki.bundle(HOST)
    crl = site.pki.authority.revocation_list([load_bundle(old, HOST).certificate.serial_number])
    for name in (FRIEND, THIEF):
        (site.pki.folder / name / "crl.pem").write_bytes(crl)
    spoke = site.dial(FRIEND, endpoint)
    spoke.wait_joined(timeout=20)
    exchange(center, spoke, 1)
