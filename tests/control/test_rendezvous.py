"""The file that carries the controller's address and the job token."""

import os
import stat

import pytest

from flame_run.control.errors import ControlError
from flame_run.control.rendezvous import Rendezvous, read_rendezvous, write_rendezvous


def test_what_was_written_is_read(tmp_path):
    path = tmp_path / ".rendezvous"
    write_rendezvous(path, "127.0.0.1:5", "secret")
    assert read_rendezvous(path) == Rendezvous("127.0.0.1:5", "secret")
    tls = {"bundles": "/keys", "ca": None, "crl": "/crl.pem"}
    path.unlink()
    write_rendezvous(path, "127.0.0.1:5", "secret", tls)
    assert read_rendezvous(path) == Rendezvous("127.0.0.1:5", "secret", tls)
    assert [file.name for file in tmp_path.iterdir()] == [".rendezvous"]


def test_only_its_owner_can_read_it_whatever_the_umask(tmp_path):
    old = os.umask(0)
    try:
        write_rendezvous(tmp_path / "r", "a:1", "secret")
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "r").stat().st_mode) == 0o600


def test_an_existing_file_or_link_is_never_replaced_or_followed(tmp_path):
    target, link = tmp_path / "target", tmp_path / "link"
    target.write_text("mine")
    link.symlink_to(target)
    for path in (target, link):
        with pytest.raises(FileExistsError):
            write_rendezvous(path, "a:1", "secret")
    assert target.read_text() == "mine"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["link", "target"]


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"address": "a:1"}', "no json"])
def test_a_file_that_is_no_rendezvous_is_an_error_that_names_it(tmp_path, content):
    (tmp_path / "r").write_text(content)
    with pytest.raises(ControlError, match="is not a rendezvous file"):
        read_rendezvous(tmp_path / "r")


def test_a_missing_file_is_an_error_that_says_what_that_means(tmp_path):
    with pytest.raises(ControlError, match=r"no rendezvous file at .*the runner has ended"):
        read_rendezvous(tmp_path / "r")
