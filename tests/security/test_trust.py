"""Whom a process believes, and when it stops."""

import os

import pytest

from flame_run.security.bundle import load_bundle
from tests.security.pki import DAY


@pytest.fixture
def trust(pki):
    """What trainer-0 believes."""
    return load_bundle(pki.bundle("trainer-0"), "trainer-0").trust


def test_a_peer_of_the_same_ca_is_believed_to_be_who_it_is_and_nobody_else(pki, trust):
    certificate = pki.issue("trainer-1").certificate
    assert trust.why_not(certificate) is None
    assert trust.why_not(certificate, "trainer-1") is None
    assert "is of trainer-1 (role trainer" in trust.why_not(certificate, "trainer-2")
    assert "not of aggregator-0" in trust.why_not(certificate, "aggregator-0")
    assert "not of controller" in trust.why_not(certificate, "controller")


def test_a_role_that_is_not_that_of_the_name_is_not_believed(pki, trust):
    certificate = pki.issue("aggregator-0", role="trainer").certificate
    assert "no worker of that name has that role" in trust.why_not(certificate, "aggregator-0")


def test_another_domain_is_not_believed(foreign, trust):
    assert "is not of job-" in trust.why_not(foreign.issue("trainer-1").certificate, "trainer-1")


def test_a_certificate_out_of_its_time_is_not_believed(pki, trust):
    assert "is not valid now" in trust.why_not(pki.issue("trainer-1", lifetime=-DAY).certificate, "trainer-1")


def test_a_certificate_without_an_identity_is_not_believed(pki, trust):
    assert "cannot be judged: its URI names are not one flame-run://" in trust.why_not(pki.authority.certificate)


def test_a_revocation_counts_as_soon_as_the_file_changes(pki, trust):
    peer = pki.bundle("trainer-1")
    certificate = load_bundle(peer, "trainer-1").certificate
    assert trust.why_not(certificate, "trainer-1") is None
    (pki.folder / "trainer-0" / "crl.pem").write_bytes(pki.revoke(peer))
    assert "is revoked (serial" in trust.why_not(certificate, "trainer-1")
    assert trust.why_not(pki.issue("trainer-1").certificate, "trainer-1") is None
    (pki.folder / "trainer-0" / "crl.pem").unlink()
    assert trust.why_not(certificate, "trainer-1") is None


def test_a_list_that_cannot_be_read_makes_everybody_suspect(pki, trust):
    (pki.folder / "trainer-0" / "crl.pem").write_bytes(b"torn")
    assert "crl.pem is not a revocation list" in trust.why_not(pki.issue("trainer-1").certificate, "trainer-1")


def test_a_list_of_another_ca_is_no_list(pki, foreign, trust):
    peer = pki.bundle("trainer-1")
    serial = load_bundle(peer, "trainer-1").certificate.serial_number
    (pki.folder / "trainer-0" / "crl.pem").write_bytes(foreign.authority.revocation_list([serial]))
    assert "holds a list that no CA certificate of ours has signed" in trust.why_not(pki.issue("trainer-1").certificate)


def test_several_lists_in_one_file_all_count(pki, trust):
    peers = [pki.bundle(name) for name in ("trainer-1", "trainer-2")]
    (pki.folder / "trainer-0" / "crl.pem").write_bytes(b"".join(pki.revoke(peer) for peer in peers))
    for peer in peers:
        assert "is revoked" in trust.why_not(load_bundle(peer, peer.name).certificate)


def test_a_list_is_not_parsed_again_while_its_file_stays_the_same(pki, trust, monkeypatch):
    crl = pki.folder / "trainer-0" / "crl.pem"
    crl.write_bytes(pki.authority.revocation_list([1]))
    peer = pki.issue("trainer-1").certificate
    assert trust.why_not(peer) is None
    status = crl.stat()
    crl.write_bytes(bytes(status.st_size))
    os.utime(crl, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert trust.why_not(peer) is None
