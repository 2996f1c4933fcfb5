"""The controller over TLS on real sockets: a session is the worker that its certificate names, and the controller is itself."""

import queue
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest

from flame_run.control import events, wire
from flame_run.control.controller import Controller
from flame_run.control.errors import ConnectionLost, SessionRefused
from flame_run.control.grpc_session import GrpcSession
from flame_run.control.server import ControlServer
from flame_run.security.names import CONTROLLER
from flame_run.security.tls import TlsSecurity
from flame_run.topology.plan import Plan, Worker
from tests.security.pki import DAY, Pki, Warned
from transports.grpc_channel.security import Clear, Security

NAMES = ("trainer-0", "trainer-1", "aggregator-0")


def make_plan() -> Plan:
    workers = tuple(
        Worker(name=name, task_id=f"{index:040x}", role=name.rpartition("-")[0], index=index, groups={}, realm="default")
        for index, name in enumerate(NAMES)
    )
    return Plan(job_id="a" * 24, job_name="job", schema_name="schema", code={}, workers=workers, channels=())


class Place:
    """A controller that listens, and the sessions of a test."""

    def __init__(self, pki: Pki) -> None:
        self.pki = pki
        self.events: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.controller = Controller(make_plan(), part=lambda name: {"worker": name}, post=self.events.put)
        self.securities: list[Security] = []
        self.servers: list[ControlServer] = []
        self.sessions: list[GrpcSession] = []

    def serve(self, security: Security | None = None) -> str:
        security = security or TlsSecurity(self.pki.folder / CONTROLLER, CONTROLLER, grace=1000.0)
        server = ControlServer(self.controller, security=security, heartbeat=20.0)
        self.securities.append(security)
        self.servers.append(server)
        return server.start()

    def session(self, address: str, name: str, security: Security | None = None, token: str | None = None) -> GrpcSession:
        security = security or TlsSecurity(self.pki.folder / name, name)
        session = GrpcSession(address, token or self.controller.token, name, security=security)
        self.sessions.append(session)
        return session

    def close(self) -> None:
        for server in self.servers:
            server.stop()
        for session in self.sessions:
            session._end()


@pytest.fixture
def place(pki: Pki) -> Iterator[Place]:
    pki.bundles(*NAMES)
    place = Place(pki)
    yield place
    place.close()


def test_a_worker_registers_with_its_certificate_and_reports(place: Place) -> None:
    session = place.session(place.serve(), "trainer-0")
    assert session.open(20)["worker"] == "trainer-0"
    session.metrics(1, {"loss": 0.5})
    kinds = [type(place.events.get(timeout=20)) for _ in range(2)]
    assert kinds == [events.Registered, events.MetricsReported]
    assert place.controller.refusals == {}


@pytest.mark.parametrize("name", ["trainer-1", "aggregator-0"])
def test_a_worker_cannot_register_as_another_one_nor_as_another_role(place: Place, name: str, warned: Warned) -> None:
    thief = TlsSecurity(place.pki.folder / "trainer-0", "trainer-0")
    with pytest.raises(SessionRefused, match=rf"the certificate is of trainer-0 \(role trainer, .*\), not of {name}") as caught:
        place.session(address := place.serve(), name, thief).open(20)
    assert caught.value.kind == "certificate"
    assert place.controller.refusals == {"certificate": 1}
    warned.wait("refused: ")
    assert place.session(address, name).open(20)["worker"] == name


def test_a_revoked_worker_is_refused_and_the_others_are_not(place: Place) -> None:
    address = place.serve()
    (place.pki.folder / CONTROLLER / "crl.pem").write_bytes(place.pki.revoke(place.pki.folder / "trainer-0"))
    with pytest.raises(SessionRefused, match=r"the certificate of trainer-0 \(role trainer, .*\) is revoked") as caught:
        place.session(address, "trainer-0").open(20)
    assert caught.value.kind == "certificate"
    assert place.controller.refusals == {"certificate": 1}
    assert place.session(address, "trainer-1").open(20)["worker"] == "trainer-1"


def test_a_certificate_does_not_replace_the_token(place: Place) -> None:
    with pytest.raises(SessionRefused, match="has no valid job token") as caught:
        place.session(place.serve(), "trainer-0", token="a guess").open(20)
    assert caught.value.kind == "token"


Strange = Callable[[Pki, Pki], tuple[Path | None, Path]]


@pytest.mark.parametrize("what", ["no TLS", "no certificate", "a foreign CA", "an expired certificate"])
def test_who_cannot_pass_the_handshake_is_counted_while_workers_register(
    place: Place, foreign: Pki, what: str, warned: Warned
) -> None:
    address = place.serve()
    bundle = {
        "a foreign CA": lambda: foreign.bundle("trainer-0"),
        "an expired certificate": lambda: place.pki.bundle("trainer-0", lifetime=-DAY, folder="expired"),
    }.get(what, lambda: None)()
    own = (None, None) if bundle is None else ((bundle / "key.pem").read_bytes(), (bundle / "cert.pem").read_bytes())
    credentials = grpc.ssl_channel_credentials((place.pki.folder / "trainer-1" / "ca.pem").read_bytes(), *own)
    options = [("grpc.ssl_target_name_override", "worker.flame-run")]
    made = grpc.insecure_channel(address) if what == "no TLS" else grpc.secure_channel(address, credentials, options)
    with made as channel:
        method: Any = channel.stream_stream(f"/{wire.SERVICE}/{wire.METHOD}")
        with pytest.raises(grpc.RpcError) as caught:
            list(method(iter([wire.register("trainer-0", 1, "here")]), metadata=((wire.TOKEN_KEY, place.controller.token),)))
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    place.securities[0].close()  # which tells of those that have not become a stream
    warned.wait("without TLS, or without a valid certificate of this job")
    assert place.controller.refusals == {"certificate": 1}
    assert place.session(address, "trainer-0").open(20)["worker"] == "trainer-0"


@pytest.mark.parametrize("what", ["a foreign CA", "another worker", "no TLS", "a revoked certificate"])
def test_a_worker_gives_its_token_to_no_impostor_of_the_controller(place: Place, foreign: Pki, what: str, warned: Warned) -> None:
    if what == "a revoked certificate":
        (place.pki.folder / "trainer-0" / "crl.pem").write_bytes(place.pki.revoke(place.pki.folder / CONTROLLER))
    impostors: dict[str, Callable[[], Security | None]] = {
        "a foreign CA": lambda: TlsSecurity(foreign.bundle(CONTROLLER), CONTROLLER),
        "another worker": lambda: TlsSecurity(place.pki.folder / "trainer-1", "trainer-1"),
        "no TLS": Clear,
        "a revoked certificate": lambda: None,
    }
    address = place.serve(impostors[what]())
    session = place.session(address, "trainer-0")
    with ThreadPoolExecutor(1) as pool:
        opening = pool.submit(session.open, 60)
        warned.wait("refused: trainer-0 does not trust whoever is at 127.0.0.1:")
        session._end()
        with pytest.raises(ConnectionLost):
            opening.result(60)
    assert place.events.empty()
