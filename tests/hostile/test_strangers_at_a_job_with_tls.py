"""The same with certificates: who has none that fits does not even get to speak. See also `tests/e2e/test_tls.py`."""

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest

from flame_run.security.authority import Authority
from flame_run.security.certs import certs
from flame_run.security.names import role_of
from flame_run.security.private import read_private
from tests.hostile import h2
from tests.hostile.strangers import SOON, TLS_HELLO, SlowSenders, flood_of_calls, knock, nonsense, say, swallowed

code = grpc.StatusCode
DAY = timedelta(days=1)


@pytest.fixture
def bundles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    certs(["certificates", "experiment=smoke"])
    return tmp_path / "certificates"


@pytest.fixture
def siege(besieged: Callable[..., Any], bundles: Path) -> Any:
    begun = besieged("security=tls", f"security.bundles={bundles}", "faults.heartbeat=8", "transport=grpc")
    begun.run.await_line(r"^round 1/")
    return begun


def shown(ca: bytes, key: bytes, cert: bytes) -> grpc.ChannelCredentials:
    return grpc.ssl_channel_credentials(ca, key, cert)


def test_a_job_with_tls_stands_strangers_of_every_kind(siege: Any, bundles: Path, undisturbed: str) -> None:
    ca = (bundles / "trainer-1" / "ca.pem").read_bytes()
    secret, inner = read_private(bundles / "token").decode().strip(), siege.channel_token()
    own = shown(ca, read_private(bundles / "trainer-1" / "key.pem"), (bundles / "trainer-1" / "cert.pem").read_bytes())
    foreign = Authority.create(DAY)
    doors = siege.doors()
    slow_hello = TLS_HELLO + bytes(200)
    with SlowSenders(doors, 10, slow_hello) as slow:
        for door in doors:
            right = secret if door.control else inner
            # With a certificate of somebody else's CA, whatever it says.
            for name in ("trainer-1", "controller", "aggregator-0"):
                issued = foreign.issue(role_of(name), name, DAY)
                assert knock(door, right, name, credentials=shown(ca, issued.key_pem, issued.cert_pem))[0] is code.UNAVAILABLE
            # With no certificate, and with no TLS at all.
            assert knock(door, right, "trainer-1", credentials=grpc.ssl_channel_credentials(ca))[0] is code.UNAVAILABLE
            assert set(flood_of_calls(door, right, "trainer-1", 200)) == {"UNAVAILABLE"}
            # With the certificate of a worker, in the name of everybody else, and in its own while it is there.
            for name in ("trainer-0", "aggregator-0", "controller", "mallory", ""):
                assert knock(door, right, name, credentials=own)[0] is code.PERMISSION_DENIED
            assert knock(door, right, "trainer-1", credentials=own)[0] is code.ALREADY_EXISTS
            assert knock(door, "guess", "trainer-1", credentials=own)[0] is code.UNAUTHENTICATED
            looks = [("flame-run-looks", "9" * 6000)]
            assert knock(door, right, "trainer-1", credentials=own, metadata=looks)[0] is code.ALREADY_EXISTS
            for data in nonsense(door, 11)[::4]:
                assert say(door, data)
                assert say(door, TLS_HELLO + data)
            assert say(door, h2.hello(door.path))
        crowds = [door.connected() for door in doors for _ in range(200)]
        assert slow.dropped(SOON), f"{slow.left} slow senders are still connected"
        for stranger in crowds:
            assert swallowed(stranger)
            stranger.close()
    assert siege.relieve() == 0, siege.run.text + siege.run.stderr
    summary = siege.run.json("summary.json")
    assert (summary["status"], summary["model_sha256"]) == ("completed", undisturbed)
    refused = summary["security"]["refused"]
    assert (refused["controller"]["taken"], refused["controller"]["token"]) == (2, 1)
    # Five in other names; the rest never became a call, and were counted by their connections.
    assert refused["controller"]["certificate"] >= 5
    assert refused["workers"]["aggregator-0"] >= 5 + 3
    logs = siege.logs()
    assert "without TLS, or without a valid certificate of this job" in logs
    assert "Traceback" not in logs
    keys = [line for path in bundles.rglob("key.pem") for line in path.read_text().splitlines()[1:2]]
    assert len(keys) == 4
    assert not any(each in logs for each in (secret, inner, *keys))
    assert siege.run.left_over() == []
