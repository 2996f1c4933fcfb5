"""`flame-run certs`: what lies in its folder, and what renewing and revoking do to it."""

import json
import re
import stat
from pathlib import Path

import pytest
from cryptography import x509

from flame_run.errors import InvalidConfig
from flame_run.security.bundle import load_bundle
from flame_run.security.certs import certs
from flame_run.security.errors import SecurityError
from flame_run.security.names import CONTROLLER

JOB = ("experiment=smoke", "tracking=none")
EVERYBODY = {CONTROLLER, "aggregator-0", "trainer-0", "trainer-1"}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The certificates of a small job."""
    monkeypatch.chdir(tmp_path)
    certs(["job", *JOB])
    return tmp_path / "job"


def serial(folder: Path, name: str) -> int:
    return load_bundle(folder / name, name).certificate.serial_number


def test_everybody_of_the_job_gets_a_bundle_that_works(folder: Path) -> None:
    assert {path.name for path in folder.iterdir() if path.is_dir()} == EVERYBODY
    domains = set()
    for name in EVERYBODY:
        bundle = load_bundle(folder / name, name)
        assert bundle.why_not() is None
        domains.add(bundle.identity.domain)
        about = json.loads((folder / name / "bundle.json").read_text())
        assert (about["worker"], about["role"], about["job"]) == (name, bundle.identity.role, "smoke")
        assert (folder / name / "token").read_bytes() == (folder / "token").read_bytes()
    assert len(domains) == 1


def test_keys_and_tokens_are_their_owners_alone(folder: Path) -> None:
    secret = {"ca.key", "key.pem", "token"}
    for path in folder.rglob("*"):
        mode = stat.S_IMODE(path.stat().st_mode)
        assert mode == (0o700 if path.is_dir() else 0o600 if path.name in secret else 0o644), path
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_nothing_of_the_run_is_written_where_the_command_was_called(folder: Path) -> None:
    assert {path.name for path in folder.parent.iterdir()} == {"job"}


def test_calling_it_again_changes_nothing_and_a_larger_job_adds_workers(folder: Path) -> None:
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    certs([str(folder), *JOB])
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    certs([str(folder), "experiment=mnist_two_tier", "tracking=none"])
    added = {path.name for path in folder.iterdir() if path.is_dir()} - EVERYBODY
    assert "trainer-2" in added
    assert (folder / "trainer-0" / "cert.pem").read_bytes() == before[folder / "trainer-0" / "cert.pem"]


def test_the_list_names_everybody_with_state_and_end(folder: Path) -> None:
    lines = certs([str(folder), "--list"]).splitlines()
    assert lines[0].split() == ["name", "role", "state", "expires", "(UTC)", "days", "left", "serial"]
    for line in lines[1:]:
        assert re.fullmatch(r"\S+ +\S+ +valid +\d{4}-\d\d-\d\d \d\d:\d\d +364 +[0-9a-f]+", line), line
    assert {line.split()[0] for line in lines[1:]} == EVERYBODY


def test_revoking_tells_every_bundle_and_the_list(folder: Path) -> None:
    certs([str(folder), "--revoke", "trainer-1"])
    for name in EVERYBODY:
        reason = load_bundle(folder / name, name).trust.why_not(load_bundle(folder / "trainer-1", "trainer-1").certificate)
        assert "is revoked" in str(reason)
        assert (load_bundle(folder / name, name).why_not() is None) is (name != "trainer-1")
    assert re.search(r"trainer-1 +trainer +revoked", certs([str(folder), "--list"]))


def test_every_certificate_that_a_worker_ever_had_is_revoked(folder: Path) -> None:
    first = serial(folder, "trainer-1")
    certs([str(folder), "--renew", "trainer-1"])
    second = serial(folder, "trainer-1")
    certs([str(folder), "--revoke", "trainer-1"])
    crl = x509.load_pem_x509_crl((folder / "crl.pem").read_bytes())
    assert {entry.serial_number for entry in crl} == {first, second}


def test_renewing_gives_a_new_key_and_lets_a_revoked_worker_in_again(folder: Path) -> None:
    key = (folder / "trainer-1" / "key.pem").read_bytes()
    certs([str(folder), "--revoke", "trainer-1", "--renew", "trainer-1", "--days", "2"])
    assert (folder / "trainer-1" / "key.pem").read_bytes() != key
    assert load_bundle(folder / "trainer-1", "trainer-1").why_not() is None
    assert re.search(r"trainer-1 +trainer +valid +\S+ \S+ +1 ", certs([str(folder), "--list"]))


def test_renewing_all_renews_everybody(folder: Path) -> None:
    before = {name: serial(folder, name) for name in EVERYBODY}
    certs([str(folder), "--renew", "all"])
    assert all(serial(folder, name) != before[name] for name in EVERYBODY)


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ([], "the folder for the certificates comes first"),
        (["experiment=smoke"], "the folder for the certificates comes first"),
        (["D", "--days", "0"], "must be a number above 0"),
        (["D", "--days", "nan"], "must be a number above 0"),
        (["D", "--revoke"], "needs a value"),
        (["D", "experiment=smoke", "--list"], "overrides belong to the making of certificates"),
        (["D", "-m"], "certificates are of one job"),
        (["D", "experiment=smok"], "smoke"),
    ],
)
def test_words_that_make_no_sense_are_explained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], reason: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InvalidConfig, match=reason):
        certs(words)
    assert list(tmp_path.iterdir()) == []


def test_a_name_without_a_certificate_is_an_error_that_lists_the_names(folder: Path) -> None:
    with pytest.raises(
        SecurityError, match="no certificate was issued to trainer-9; there are aggregator-0, controller, trainer-0"
    ):
        certs([str(folder), "--revoke", "trainer-9"])


def test_a_folder_without_certificates_is_an_error_that_says_how_to_make_them(tmp_path: Path) -> None:
    with pytest.raises(SecurityError, match=r"holds no certificates; `flame-run certs .* \[overrides\]` makes them") as caught:
        certs([str(tmp_path), "--list"])
    assert caught.value.exit_status == 2
