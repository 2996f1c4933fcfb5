"""Jobs with `security=tls`: the same model, no secrets lying about, and nobody uninvited."""

import os
import shutil
import signal
import socket
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest

from flame_run.security.authority import Authority
from flame_run.security.certs import certs
from flame_run.security.names import role_of
from flame_run.security.private import read_private
from tests.hostile import gated

ROUNDS = 8
SMOKE = ("experiment=smoke", f"job.hyperparameters.rounds={ROUNDS}")
HELD = (f"python_path=[{Path(gated.__file__).parent}]", "+job.code.trainer=gated.GatedTrainer")
"""Overrides of a job whose last round begins when the test says so."""
NO_TRACKING = "tracking=none"
DAY = timedelta(days=1)
ROUND = r"round 2/"


@pytest.fixture
def bundles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The certificates of the smoke job, outside of its working folder."""
    monkeypatch.chdir(tmp_path)
    certs(["certificates", "experiment=smoke"])
    return tmp_path / "certificates"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """The working folder of a run."""
    folder = tmp_path / "work"
    folder.mkdir()
    return folder


def secrets_of(bundles: Path) -> list[bytes]:
    """The token, and lines of every key."""
    keys = [path.read_bytes() for path in bundles.rglob("key.pem")]
    assert len(keys) == 4
    return [read_private(bundles / "token").strip(), *(key.splitlines()[1] for key in keys)]


def holders(folder: Path, secrets: list[bytes]) -> list[Path]:
    """Files under `folder` that hold a secret, whatever they are."""
    found = []
    for path in folder.rglob("*"):
        try:
            content = path.read_bytes() if path.is_file() else b""
        except FileNotFoundError:  # a job that runs replaces its files
            continue
        if any(secret in content for secret in secrets):
            found.append(path)
    return found


def said_of(processes: list[psutil.Process]) -> Iterator[bytes]:
    """What anybody on the machine can read of processes: their arguments, and their environment."""
    for process in processes:
        for name in ("cmdline", "environ"):
            try:
                yield Path(f"/proc/{process.pid}/{name}").read_bytes()
            except OSError:  # it has ended
                continue


def test_tls_gives_the_same_model_and_leaves_no_key_and_no_token_behind(flame_run: Any, place: Path) -> None:
    rounds = "job.hyperparameters.rounds=2"
    clear = flame_run("experiment=smoke", rounds, NO_TRACKING, cwd=place)
    run = flame_run("experiment=smoke", rounds, "security=tls", cwd=place)
    assert (clear.process.returncode, run.process.returncode) == (0, 0), run.stderr
    assert run.json("summary.json")["status"] == "completed"
    assert run.json("summary.json")["model_sha256"] == clear.json("summary.json")["model_sha256"]
    assert holders(place, [b"PRIVATE KEY"]) == []
    assert not (run.folder / ".security").exists()
    assert not (run.folder / ".rendezvous").exists()


def test_no_secret_is_to_be_seen_while_a_job_runs_nor_after_it(start: Any, bundles: Path, place: Path) -> None:
    secrets = secrets_of(bundles)
    run = start(*SMOKE, "job.hyperparameters.rounds=1000", "security=tls", f"security.bundles={bundles}", cwd=place)
    run.await_line(ROUND)
    seen = list(said_of([psutil.Process(run.process.pid), *run.family]))
    assert len(seen) >= 8
    assert not any(secret in text for text in seen for secret in secrets)
    for path in holders(place, secrets):
        assert (path.name, path.stat().st_mode & 0o777) == (".rendezvous", 0o600)
    run.signal(signal.SIGINT)
    assert run.finish() == 130
    assert (place / "mlflow.db").is_file()
    assert holders(place, secrets) == []
    assert not any(secret.decode() in run.text + run.stderr for secret in secrets)


def listening(run: Any) -> list[int]:
    """Every port on which the job listens."""
    ports = set()
    for process in [psutil.Process(run.process.pid), *run.family]:
        try:
            found = process.net_connections(kind="tcp")
        except psutil.NoSuchProcess:
            continue
        ports |= {each.laddr.port for each in found if each.status == psutil.CONN_LISTEN}
    return sorted(ports)


SERVICES = ("/flame_run.control.Control/Session", "/flame_run.transports.v1.Transport/Exchange")


def knock(port: int, credentials: grpc.ChannelCredentials | None, name: str, token: str) -> grpc.StatusCode:
    """Call both services as `name`; returns how that was refused."""
    from flame_run.control import wire
    from transports.grpc_channel.host import Hello

    options = [("grpc.ssl_target_name_override", "worker.flame-run"), ("grpc.use_local_subchannel_pool", 1)]
    address = f"127.0.0.1:{port}"
    made = grpc.insecure_channel(address) if credentials is None else grpc.secure_channel(address, credentials, options)
    hello = Hello(token.encode(), "1", "param-channel", "default", name)
    codes = []
    with made as channel:
        for service in SERVICES:
            method: Any = channel.stream_stream(service)
            metadata = ((wire.TOKEN_KEY, token), *hello.metadata())
            call = method(iter([wire.register(name, os.getpid(), "here")]), metadata=metadata, timeout=20)
            with pytest.raises(grpc.RpcError) as caught:
                list(call)
            codes.append(caught.value.code())
    (code,) = set(codes) - {grpc.StatusCode.UNIMPLEMENTED}
    return code


def credentials_of(bundle: Path, ca: Path) -> grpc.ChannelCredentials:
    key, cert = read_private(bundle / "key.pem"), (bundle / "cert.pem").read_bytes()
    return grpc.ssl_channel_credentials((ca / "ca.pem").read_bytes(), key, cert)


def made_by(authority: Authority, name: str, lifetime: timedelta, ca: Path) -> grpc.ChannelCredentials:
    issued = authority.issue(role_of(name), name, lifetime)
    return grpc.ssl_channel_credentials((ca / "ca.pem").read_bytes(), issued.key_pem, issued.cert_pem)


def test_a_job_refuses_whoever_is_not_invited_and_completes_with_the_same_model(
    flame_run: Any, start: Any, bundles: Path, place: Path
) -> None:
    clear = flame_run(*SMOKE, NO_TRACKING, cwd=place)
    token = read_private(bundles / "token").decode().strip()
    # A worker that was invited, and is not any more.
    revoked = shutil.copytree(bundles / "trainer-1", place / "revoked")
    certs([str(bundles), "--revoke", "trainer-1", "--renew", "trainer-1"])
    gate = place.parent / "gate"
    os.mkfifo(gate)
    held = {gated.GATE: str(gate), gated.ROUND: str(ROUNDS)}
    run = start(*SMOKE, *HELD, NO_TRACKING, "security=tls", f"security.bundles={bundles}", cwd=place, env=held)
    run.await_line(ROUND)
    ports = listening(run)
    assert len(ports) >= 2
    code = grpc.StatusCode
    for port in ports:
        assert knock(port, None, "trainer-0", token) is code.UNAVAILABLE
        assert knock(port, made_by(Authority.create(DAY), "trainer-0", DAY, bundles), "trainer-0", token) is code.UNAVAILABLE
        assert knock(port, made_by(_authority(bundles), "trainer-0", -DAY, bundles), "trainer-0", token) is code.UNAVAILABLE
        assert knock(port, credentials_of(revoked, bundles), "trainer-1", token) is code.PERMISSION_DENIED
        for name in ("trainer-0", "aggregator-0"):
            assert knock(port, credentials_of(bundles / "trainer-1", bundles), name, token) is code.PERMISSION_DENIED
        with socket.create_connection(("127.0.0.1", port)) as silent:
            silent.send(b"\x16\x03\x01")
    assert run.process.poll() is None, "the job was over before the strangers were through"
    # For reading as well, so that it opens at once.
    opened = os.open(gate, os.O_RDWR)
    assert run.finish() == 0, run.text + run.stderr
    os.close(opened)
    assert run.json("summary.json")["status"] == "completed"
    assert run.json("summary.json")["model_sha256"] == clear.json("summary.json")["model_sha256"]
    logs = [run.folder / "run.log", run.folder / "workers" / "aggregator-0" / "worker.log"]
    for text in (log.read_text() for log in logs):
        assert "is revoked (serial" in text
        assert "the certificate is of trainer-1 (role trainer" in text
        assert "without TLS, or without a valid certificate of this job" in text
        assert token not in text


def _authority(bundles: Path) -> Authority:
    from flame_run.security.store import Store

    return Store(bundles)._authority()


def test_bundles_that_are_no_good_start_nothing(flame_run: Any, bundles: Path, place: Path) -> None:
    (bundles / "trainer-0" / "key.pem").chmod(0o644)
    certs([str(bundles), "--revoke", "trainer-1"])
    run = flame_run(*SMOKE, NO_TRACKING, "security=tls", f"security.bundles={bundles}", cwd=place)
    assert run.process.returncode == 2
    assert "2 problems in the configuration" in run.stderr
    assert "key.pem has mode 0644" in run.stderr
    assert "is revoked" in run.stderr
    assert not list(place.glob("outputs/*/*"))


def test_sites_join_with_the_bundles_that_were_made_for_them_and_with_no_others(
    flame_run: Any, start: Any, bundles: Path, place: Path
) -> None:
    rounds = "job.hyperparameters.rounds=2"
    clear = flame_run("experiment=smoke", rounds, NO_TRACKING, cwd=place)
    external = ("launcher=external", "launcher.local=[aggregator]", "security=tls", f"security.bundles={bundles}")
    run = start("experiment=smoke", rounds, NO_TRACKING, *external, cwd=place)
    address = run.await_line(r"^waiting at").split()[2]
    stolen = shutil.copytree(bundles / "trainer-1", place / "stolen")
    (stolen / "bundle.json").unlink()
    refused = flame_run("join", address, "--worker", "trainer-0", "--bundle", str(stolen), cwd=place)
    assert refused.process.returncode == 2
    assert "is the certificate of trainer-1" in refused.stderr
    names = ("trainer-0", "trainer-1")
    sites = [start("join", address, "--worker", name, "--bundle", str(bundles / name), cwd=place) for name in names]
    assert [each.finish() for each in (run, *sites)] == [0, 0, 0], run.text + run.stderr + sites[0].stderr
    assert run.json("summary.json")["model_sha256"] == clear.json("summary.json")["model_sha256"]
