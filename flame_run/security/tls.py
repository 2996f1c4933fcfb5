"""Mutual TLS on gRPC, with one identity per worker.

gRPC checks at each handshake that the other side holds a certificate of the CA that is in its time. Who it is, and whether
it is revoked, is judged here: where we listen, on the certificate that the handshake left behind, before a byte of the
stream is read; where we connect, gRPC shows nobody the certificate of the server, so a handshake of Python's own
fetches it first, and once it is found good gRPC gets it as the only one to believe.
"""

import asyncio
import logging
import socket
import ssl
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from typing_extensions import override

from flame_run.security.bundle import Bundle, dns_name, load_bundle
from flame_run.security.errors import BundleError, SecurityError
from flame_run.security.private import read_private
from flame_run.security.tally import Tally
from transports.errors import AddressError, ProtocolError
from transports.grpc_channel.security import Caller, Metadata, Options, Security

log = logging.getLogger(__name__)

HANDSHAKE_SECONDS = 10.0
"""How long a handshake may take."""
LOOKS_KEY = "flame-run-looks"
_MOST_LOOKS = 10_000
_LONGEST_LOOKS = 9


@dataclass(frozen=True, slots=True)
class _Material:
    """A bundle as gRPC and Python's ssl want it."""

    bundle: Bundle
    ca_pem: bytes
    cert_pem: bytes
    key_pem: bytes
    context: ssl.SSLContext
    stamp: tuple[tuple[int, int, int], ...]

    def client(self, server: x509.Certificate) -> grpc.ChannelCredentials:
        """Credentials that believe this one server certificate."""
        return grpc.ssl_channel_credentials(server.public_bytes(Encoding.PEM), self.key_pem, self.cert_pem)

    def server(self) -> grpc.ServerCertificateConfiguration:
        """What a server shows, and whom it believes."""
        return grpc.ssl_server_certificate_configuration([(self.key_pem, self.cert_pem)], self.ca_pem)


class TlsSecurity(Security):
    """Speaks TLS as the worker of a bundle. Certificate and key are read again when their files change.

    Args:
        folder: the bundle.
        name: the worker, or the controller.
        ca: CA certificates instead of those in the bundle.
        crl: revocation lists instead of those in the bundle.
        grace: seconds that a peer has from its handshake to its first stream before it is counted as refused.

    Raises:
        BundleError: the bundle cannot be used.
    """

    def __init__(
        self, folder: Path, name: str, *, ca: Path | None = None, crl: Path | None = None, grace: float = HANDSHAKE_SECONDS
    ) -> None:
        self._folder, self._name, self._ca, self._crl = folder, name, ca, crl
        self._grace = grace
        self._lock = threading.Lock()
        self._material = self._load()
        self._looks: Counter[str] = Counter()
        self._distrusted: dict[str, str] = {}
        self._tallies: list[Tally] = []

    @property
    def bundle(self) -> Bundle:
        """The bundle as it was last read."""
        return self._material.bundle

    @override
    def listen(self, server: grpc.aio.Server, bind: str, refused: Callable[[str], None]) -> int:
        tally = Tally(asyncio.get_running_loop(), self._grace, refused)
        shown = self._fresh()

        def fetch() -> Any:
            # gRPC calls this for every connection, before its handshake; None means that nothing has changed.
            nonlocal shown
            tally.begun()
            fresh = self._fresh()
            if fresh is shown:
                return None
            shown = fresh
            return fresh.server()

        credentials = grpc.dynamic_ssl_server_credentials(shown.server(), fetch, require_client_authentication=True)
        port = server.add_secure_port(bind, credentials)
        self._tallies.append(tally)
        return port

    @override
    def why_not(self, caller: Caller, name: str | None = None) -> str | None:
        if name is None:
            looks = dict(caller.invocation_metadata() or ()).get(LOOKS_KEY, "0")
            for tally in self._tallies:
                tally.admitted(caller.peer(), _looks(str(looks)))
        shown = list(caller.auth_context().get("x509_pem_cert", ()))
        if not shown:
            return "it shows no certificate"
        try:
            certificate = x509.load_pem_x509_certificate(shown[0])
        except ValueError as error:
            return f"its certificate cannot be read: {error}"
        return self._material.bundle.trust.why_not(certificate, name)

    @override
    async def connect(self, address: str, name: str, options: Options) -> grpc.aio.Channel:
        material = self._fresh()
        loop = asyncio.get_running_loop()
        transports: list[asyncio.BaseTransport] = []
        try:
            async with asyncio.timeout(HANDSHAKE_SECONDS):
                plain, protocol = await loop.create_connection(asyncio.Protocol, *_split(address))
                transports.append(plain)
                self._looked(name)
                spoken = await loop.start_tls(plain, protocol, material.context, server_hostname="")
            assert spoken is not None
            transports.append(spoken)
            shown = spoken.get_extra_info("ssl_object").getpeercert(binary_form=True)
        except (OSError, TimeoutError) as error:
            raise self._failure(address, name, error) from error
        finally:
            for transport in transports:
                transport.close()
        credentials, options = self._pinned(material, shown, address, name, options)
        return grpc.aio.secure_channel(address, credentials, options=options)

    @override
    def connect_blocking(self, address: str, name: str, options: Options, timeout: float) -> grpc.Channel:
        material = self._fresh()
        try:
            with socket.create_connection(_split(address), timeout) as plain:
                self._looked(name)
                with material.context.wrap_socket(plain) as spoken:
                    shown = spoken.getpeercert(binary_form=True)
        except (OSError, TimeoutError) as error:
            raise self._failure(address, name, error) from error
        credentials, options = self._pinned(material, shown, address, name, options)
        return grpc.secure_channel(address, credentials, options=options)

    @override
    def metadata(self, name: str) -> Metadata:
        with self._lock:
            return ((LOOKS_KEY, str(self._looks.pop(name, 0))),)

    @override
    def close(self) -> None:
        for tally in self._tallies:
            tally.report()

    def _looked(self, name: str) -> None:
        with self._lock:
            self._looks[name] += 1

    def _pinned(
        self, material: _Material, shown: bytes | None, address: str, name: str, options: Options
    ) -> tuple[grpc.ChannelCredentials, Options]:
        """Credentials and options for a connection to the holder of the certificate `shown` (DER), and nobody else.

        Raises:
            ProtocolError: it is not that of `name`, or no longer good.
        """
        try:
            certificate = x509.load_der_x509_certificate(shown or b"")
            host = dns_name(certificate, f"the certificate of {name}")
        except (ValueError, BundleError) as error:
            raise self._distrust(address, name, str(error)) from error
        reason = material.bundle.trust.why_not(certificate, name)
        if reason is not None:
            raise self._distrust(address, name, reason)
        self._distrusted.pop(name, None)
        return material.client(certificate), [*options, ("grpc.ssl_target_name_override", host)]

    def _failure(self, address: str, name: str, error: Exception) -> AddressError | ProtocolError:
        if isinstance(error, ssl.SSLCertVerificationError):
            return self._distrust(address, name, f"its certificate does not hold: {error.verify_message}")
        if isinstance(error, ssl.SSLError):
            return self._distrust(address, name, f"it does not speak TLS as it should: {error.reason}")
        return AddressError(f"{name} is not to be reached at {address}: {error or 'no answer'}")

    def _distrust(self, address: str, name: str, reason: str) -> ProtocolError:
        """Log it, once for as long as nothing changes, and return the error to raise."""
        text = f"{self._name} does not trust whoever is at {address} in the place of {name}: {reason}"
        if self._distrusted.get(name) != text:
            self._distrusted[name] = text
            log.warning("refused: %s", text)
        return ProtocolError(text)

    def _fresh(self) -> _Material:
        """The bundle as its files are now; as they were, with a warning, where they do not fit together."""
        with self._lock:
            if _stamp(self._material.bundle) != self._material.stamp:
                try:
                    self._material = self._load()
                    log.info("%s has read its certificate again: %s", self._name, self._material.bundle.identity)
                except SecurityError as error:
                    log.warning("%s goes on with its old certificate: %s", self._name, error)
            return self._material

    def _load(self) -> _Material:
        bundle = load_bundle(self._folder, self._name, ca=self._ca, crl=self._crl)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False  # a certificate is bound to a worker, wherever that runs
        context.set_alpn_protocols(["h2"])
        try:
            stamp = _stamp(bundle)
            context.load_verify_locations(bundle.ca)
            context.load_cert_chain(bundle.cert, bundle.key)
            return _Material(bundle, bundle.ca.read_bytes(), bundle.cert.read_bytes(), read_private(bundle.key), context, stamp)
        except OSError as error:
            raise BundleError(f"{self._folder} cannot be used for TLS: {error}") from error


def _stamp(bundle: Bundle) -> tuple[tuple[int, int, int], ...]:
    """What changes when a file of the bundle does; zeros for one that is not there."""
    found = []
    for path in (bundle.ca, bundle.cert, bundle.key):
        try:
            status = path.stat()
        except OSError:
            found.append((0, 0, 0))
        else:
            found.append((status.st_mtime_ns, status.st_size, status.st_ino))
    return tuple(found)


def _looks(said: str) -> int:
    """A number of looks that a peer has said, as far as it is one."""
    # Longer ones are no number of ours, and Python refuses to read very long ones.
    return min(int(said), _MOST_LOOKS) if said.isdecimal() and len(said) <= _LONGEST_LOOKS else 0


def _split(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)
