"""Bundles, tokens, and the command line of `flame-run join`."""

import json
import stat
from pathlib import Path
from typing import Any

import pytest

from flame_run.errors import InvalidConfig
from flame_run.join.bundle import Card, make_token, read_bundle, read_token, write_bundle
from flame_run.join.request import read_request


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    folder = tmp_path / "bundle"
    write_bundle(folder, Card(worker="trainer-0", role="trainer", job="job", address="host:4711"), "secret")
    return folder


def test_a_bundle_comes_back_as_it_was_written_and_only_its_owner_can_read_it(bundle: Path) -> None:
    read = read_bundle(bundle)
    assert (read.token, read.card.worker, read.card.role, read.card.address) == ("secret", "trainer-0", "trainer", "host:4711")
    assert stat.S_IMODE((bundle / "token").stat().st_mode) == 0o600
    assert stat.S_IMODE(bundle.stat().st_mode) == 0o700
    assert "secret" not in (bundle / "bundle.json").read_text()


def test_a_bundle_is_a_token_at_least(tmp_path: Path) -> None:
    make_token(tmp_path / "new")
    assert len(read_bundle(tmp_path / "new").token) == 64
    with pytest.raises(InvalidConfig, match="a file already"):
        make_token(tmp_path / "new")


@pytest.mark.parametrize(
    ("content", "mode", "word"),
    [
        (b"secret", 0o640, "chmod 600"),
        (b"", 0o600, "no token"),
        (b"two words", 0o600, "no token"),
        (b"\xff\xfe", 0o600, "no token"),
    ],
)
def test_a_token_that_others_can_read_or_that_is_none_is_refused(tmp_path: Path, content: bytes, mode: int, word: str) -> None:
    path = tmp_path / "token"
    path.write_bytes(content)
    path.chmod(mode)
    with pytest.raises(InvalidConfig, match=word) as caught:
        read_token(path, "security.token_file")
    assert caught.value.problems[0].place == "security.token_file"
    assert "secret" not in str(caught.value)


def test_the_bundle_knows_what_the_command_line_leaves_out(bundle: Path) -> None:
    request = read_request(["--bundle", str(bundle), "site.dial_only=true"])
    assert (request.address, request.worker, request.site.site.dial_only) == ("host:4711", "trainer-0", True)
    digest = "a" * 64
    request = read_request(["[::1]:80", "--worker=trainer-0", f"--bundle={bundle}", "--approve-digest", digest])
    assert (request.address, request.site.approve.digest) == ("[::1]:80", digest)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], "--bundle"),
        (["--bundle", "nowhere"], "no such folder"),
        (["host"], "HOST:PORT"),
        (["host:0"], "HOST:PORT"),
        (["host:1", "other:2"], "takes one address"),
        (["--worker", "trainer-1"], "that of trainer-0"),
        (["--wroker", "trainer-0"], "no such option"),
        (["--worker"], "needs one value"),
    ],
)
def test_a_command_line_that_makes_no_sense_says_why(bundle: Path, words: list[str], expected: str) -> None:
    arguments = ["--bundle", str(bundle), *words] if words and "--bundle" not in words else words
    with pytest.raises(InvalidConfig, match=expected):
        read_request(arguments)


@pytest.mark.parametrize("card", [[], {"worker": 3}, "text"])
def test_a_card_that_is_none_is_a_problem(bundle: Path, card: Any) -> None:
    (bundle / "bundle.json").write_text(json.dumps(card))
    with pytest.raises(InvalidConfig, match=r"bundle\.json"):
        read_bundle(bundle)


def test_who_has_no_address_is_told_so(tmp_path: Path) -> None:
    make_token(tmp_path / "b")
    with pytest.raises(InvalidConfig) as caught:
        read_request(["--bundle", str(tmp_path / "b")])
    assert len(caught.value.problems) == 2
