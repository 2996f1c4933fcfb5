"""What the runner makes, checks and warns of before a job starts."""

import stat
from collections.abc import Callable
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path

import pytest

from flame_run.errors import InvalidConfig
from flame_run.security.bundle import load_bundle
from flame_run.security.config import SecurityConf, SecurityKind, check_security, token_file
from flame_run.security.errors import BundleError
from flame_run.security.job import JobSecurity, security_of_bundle
from flame_run.security.names import CONTROLLER
from tests.security.pki import DAY, Pki

Make = Callable[..., JobSecurity]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """The security of a job with one trainer."""

    def job(conf: SecurityConf, bind: str = "127.0.0.1", max_run_time: float | None = None) -> JobSecurity:
        return JobSecurity(conf, ["trainer-0"], tmp_path / "made", joining=["trainer-1"], bind=bind, max_run_time=max_run_time)

    return job


def tls(bundles: Path | None = None, **paths: str) -> SecurityConf:
    return SecurityConf(kind=SecurityKind.tls, bundles=None if bundles is None else str(bundles), **paths)


@pytest.mark.parametrize("bind", ["127.0.0.1", "localhost", "::1", "[::1]", "127.1.2.3"])
def test_loopback_without_tls_needs_no_warning(make: Make, bind: str) -> None:
    assert make(SecurityConf(), bind).warnings == []


@pytest.mark.parametrize("bind", ["0.0.0.0", "10.0.0.5", "::", "host.example"])
def test_other_addresses_without_tls_get_one_clear_warning_and_with_it_none(make: Make, bind: str) -> None:
    (warning,) = make(SecurityConf(), bind).warnings
    assert f"transport.bind={bind} opens the job to the network" in warning
    assert "in clear text" in warning
    assert make(tls(), bind).warnings == []


def test_without_bundles_the_job_makes_its_own_and_leaves_nothing(make: Make, tmp_path: Path) -> None:
    job = make(tls())
    with ExitStack() as stack:
        assert job.prepare(stack) is not None
        for name in (CONTROLLER, "trainer-0", "trainer-1"):
            assert load_bundle(tmp_path / "made" / name, name).why_not() is None
        for path in (tmp_path / "made").rglob("*"):
            expected = 0o700 if path.is_dir() else 0o600 if path.name == "key.pem" else 0o644
            assert stat.S_IMODE(path.stat().st_mode) == expected, path
        kept = [path.read_text() for path in (tmp_path / "made").rglob("key.pem")]
        assert len(set(kept)) == 3
        assert not any("ca.key" in path.name for path in (tmp_path / "made").rglob("*"))
    assert not (tmp_path / "made").exists()


def test_what_is_made_outlives_the_job(make: Make, tmp_path: Path) -> None:
    with ExitStack() as stack:
        make(tls(), max_run_time=30 * 86400.0).prepare(stack)
        certificate = load_bundle(tmp_path / "made" / "trainer-0", "trainer-0").certificate
        assert certificate.not_valid_after_utc - certificate.not_valid_before_utc > timedelta(days=30)


def test_certificates_for_workers_that_join_are_handed_over(make: Make, tmp_path: Path) -> None:
    job = make(tls())
    with ExitStack() as stack:
        job.prepare(stack)
        job.hand_over(tmp_path / "bundles")
        assert not list((tmp_path / "made" / "trainer-1").iterdir())
    assert security_of_bundle(tmp_path / "bundles" / "trainer-1", "trainer-1") is not None


def test_a_bundle_without_certificates_is_of_a_job_without_tls(tmp_path: Path) -> None:
    assert security_of_bundle(tmp_path, "trainer-0") is None


def test_a_worker_whose_certificate_is_over_says_so_at_once(pki: Pki) -> None:
    with pytest.raises(BundleError, match=r"trainer-0 is of no use: the certificate of trainer-0 .* is not valid now"):
        security_of_bundle(pki.bundle("trainer-0", lifetime=-DAY), "trainer-0")


def test_given_bundles_that_are_good_are_used_as_they_are(make: Make, pki: Pki) -> None:
    job = make(tls(pki.bundles("trainer-0")))
    with ExitStack() as stack:
        assert job.prepare(stack) is not None
    assert (pki.folder / "trainer-0" / "key.pem").exists()
    assert job.tls == {"bundles": str(pki.folder), "ca": None, "crl": None}


def test_every_bundle_that_is_no_good_is_a_problem_of_its_own(make: Make, pki: Pki) -> None:
    pki.bundle(CONTROLLER).joinpath("key.pem").chmod(0o644)
    pki.bundle("trainer-0", lifetime=-DAY)
    with pytest.raises(InvalidConfig) as caught:
        make(tls(pki.folder))
    places = {problem.place: problem for problem in caught.value.problems}
    assert "others can read it" in places["security.bundles (bundle of controller)"].reason
    expired = places["security.bundles (bundle of trainer-0)"]
    assert "is not valid now" in expired.reason
    assert f"flame-run certs {pki.folder} --renew trainer-0" in expired.legal


def test_a_revoked_bundle_is_a_problem(make: Make, pki: Pki, tmp_path: Path) -> None:
    pki.bundles("trainer-0")
    crl = tmp_path / "list.pem"
    crl.write_bytes(pki.revoke(pki.folder / "trainer-0"))
    with pytest.raises(InvalidConfig, match="is revoked"):
        make(tls(pki.folder, crl=str(crl)))


def test_a_ca_of_ones_own_replaces_that_of_the_bundles(make: Make, pki: Pki, foreign: Pki, tmp_path: Path) -> None:
    pki.bundles("trainer-0")
    (tmp_path / "root.pem").write_bytes(foreign.authority.cert_pem)
    with pytest.raises(InvalidConfig, match=r"was not issued by a CA certificate of .*root\.pem"):
        make(tls(pki.folder, ca=str(tmp_path / "root.pem")))


@pytest.mark.parametrize(("lifetime", "max_run_time", "warned"), [(0.5, None, True), (3, None, False), (3, 5, True), (7, 5, False)])
def test_certificates_that_may_end_before_the_job_are_warned_of(
    make: Make, pki: Pki, lifetime: float, max_run_time: float | None, warned: bool
) -> None:
    pki.bundle(CONTROLLER, lifetime=9 * DAY)
    pki.bundle("trainer-0", lifetime=lifetime * DAY)
    job = make(tls(pki.folder), max_run_time=None if max_run_time is None else max_run_time * 86400.0)
    assert len(job.warnings) == warned
    if warned:
        assert "trainer-0 (20" in job.warnings[0]
        assert CONTROLLER not in job.warnings[0]


@pytest.mark.parametrize(
    ("conf", "places"),
    [
        (SecurityConf(), []),
        (tls(), []),
        (tls(Path("D"), ca="c", crl="r"), []),
        (SecurityConf(bundles="D", crl="r"), ["security.bundles", "security.crl"]),
        (tls(ca="c", crl="r"), ["security.ca", "security.crl"]),
    ],
)
def test_keys_that_would_do_nothing_are_problems(conf: SecurityConf, places: list[str]) -> None:
    assert [problem.place for problem in check_security(conf)] == places


def test_the_token_of_the_bundles_is_that_of_the_job_unless_another_is_named(tmp_path: Path) -> None:
    assert token_file(SecurityConf()) is None
    assert token_file(tls(tmp_path)) is None
    (tmp_path / "token").touch()
    assert token_file(tls(tmp_path)) == tmp_path / "token"
    assert token_file(tls(tmp_path, token_file="other")) == Path("other")
