"""What a bundle has to be before anybody speaks with it."""

import os
import shutil
from datetime import timedelta

import pytest
from cryptography.hazmat.primitives import serialization
from hypothesis import given
from hypothesis import strategies as st

from flame_run.security.authority import Authority
from flame_run.security.bundle import load_bundle
from flame_run.security.errors import BundleError
from flame_run.security.identity import Identity, identity_of
from tests.security.pki import DAY


def test_a_bundle_of_the_right_name_is_read(pki):
    bundle = load_bundle(pki.bundle("trainer-3"), "trainer-3")
    assert bundle.identity == Identity(pki.authority.domain, "trainer", "trainer-3")
    assert bundle.why_not() is None


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644])
def test_a_key_that_others_can_read_is_refused(pki, mode):
    folder = pki.bundle("trainer-0")
    (folder / "key.pem").chmod(mode)
    with pytest.raises(BundleError, match=f"key.pem has mode {mode:04o}: others can read it; make it yours alone with chmod 600"):
        load_bundle(folder, "trainer-0")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_key_of_another_user_is_refused(pki):
    folder = pki.bundle("trainer-0")
    os.chown(folder / "key.pem", 12345, 12345)
    with pytest.raises(BundleError, match=r"key.pem belongs to another user \(id 12345\)"):
        load_bundle(folder, "trainer-0")


def test_the_bundle_of_another_worker_is_refused(pki):
    folder = pki.bundle("trainer-1")
    with pytest.raises(BundleError, match=r"cert.pem is the certificate of trainer-1 \(role trainer, job-\w+\), not of trainer-0"):
        load_bundle(folder, "trainer-0")


def test_a_key_of_another_certificate_is_refused(pki):
    folder, other = pki.bundle("trainer-0"), pki.bundle("trainer-1")
    shutil.copy(other / "key.pem", folder / "key.pem")
    with pytest.raises(BundleError, match=r"key.pem is not the key of .*cert.pem"):
        load_bundle(folder, "trainer-0")


def test_a_certificate_that_its_ca_did_not_issue_is_refused(pki, foreign):
    folder = pki.bundle("trainer-0")
    shutil.copy(foreign.bundle("trainer-0") / "ca.pem", folder / "ca.pem")
    with pytest.raises(BundleError, match="was not issued by a CA certificate of"):
        load_bundle(folder, "trainer-0")


@pytest.mark.parametrize("file", ["ca.pem", "cert.pem", "key.pem"])
def test_a_file_that_is_missing_is_named(pki, file):
    folder = pki.bundle("trainer-0")
    (folder / file).unlink()
    with pytest.raises(BundleError, match=f"{file} cannot be read: No such file"):
        load_bundle(folder, "trainer-0")


@pytest.mark.parametrize("file", ["ca.pem", "cert.pem", "key.pem", "crl.pem"])
def test_a_file_of_something_else_is_named(pki, file):
    folder = pki.bundle("trainer-0")
    (folder / file).write_bytes(b"-----BEGIN NOTHING-----\nsecret words\n")
    with pytest.raises(BundleError, match=file) as caught:
        load_bundle(folder, "trainer-0")
    assert "secret words" not in str(caught.value)


def test_an_encrypted_key_is_refused(pki):
    folder = pki.bundle("trainer-0")
    key = serialization.load_pem_private_key((folder / "key.pem").read_bytes(), None)
    locked = serialization.BestAvailableEncryption(b"words")
    sealed = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, locked)
    (folder / "key.pem").write_bytes(sealed)
    with pytest.raises(BundleError, match=r"key\.pem is encrypted"):
        load_bundle(folder, "trainer-0")


def test_an_expired_certificate_is_read_and_said_to_be_of_no_use(pki):
    bundle = load_bundle(pki.bundle("trainer-0", lifetime=-DAY), "trainer-0")
    assert "is not valid now" in str(bundle.why_not())


def test_a_certificate_never_outlives_its_ca():
    authority = Authority.create(timedelta(hours=1))
    issued = authority.issue("trainer", "trainer-0", timedelta(days=1000))
    assert issued.certificate.not_valid_after_utc == authority.certificate.not_valid_after_utc


names = st.text(st.characters(codec="utf-8"), min_size=1, max_size=30)


@given(role=names, name=names)
def test_what_a_certificate_names_is_what_it_was_issued_for(role, name):
    authority = AUTHORITY
    assert identity_of(authority.issue(role, name, DAY).certificate) == Identity(authority.domain, role, name)


AUTHORITY = Authority.create(DAY)
