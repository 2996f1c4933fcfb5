"""`launcher=external` at the job: who starts where, what makes such a job invalid, and what its sites are told."""

import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from flame_run.errors import InvalidConfig
from flame_run.join.bundle import read_bundle
from flame_run.join.digest import digest_of
from flame_run.join.invite import Invitations, address_of_sites
from flame_run.launch.external import started_here
from flame_run.run.checks import plan_of
from flame_run.run.folder import RunFolder
from flame_run.run.parts import Parts
from tests.join.conftest import composed

AT_SITE = "dataset.datasets.0.url='site://'"
MakeInvitations = Callable[[Path | None], Invitations]


def problems(*overrides: str) -> dict[str, str]:
    with pytest.raises(InvalidConfig) as caught:
        plan_of(composed(*overrides))
    return {problem.place: str(problem) for problem in caught.value.problems}


@pytest.mark.parametrize(
    ("overrides", "here"),
    [
        ([], ["trainer-0", "trainer-1", "trainer-2", "trainer-3", "aggregator-0"]),
        (["launcher=external"], []),
        (["launcher=external", "launcher.local=[aggregator]"], ["aggregator-0"]),
        (["launcher=external", "launcher.local=[trainer-2,aggregator]"], ["trainer-2", "aggregator-0"]),
    ],
)
def test_the_runner_starts_what_its_launcher_says_and_the_sites_the_rest(overrides: list[str], here: list[str]) -> None:
    cfg = composed(*overrides)
    assert list(started_here(cfg, plan_of(cfg))) == here


def test_local_names_roles_and_workers_of_the_job_only() -> None:
    assert "'aggregator'" in problems("launcher=external", "launcher.local=[agregator]")["launcher.local[0]"]
    assert "not a list" in problems("launcher=external", "launcher.local=aggregator")["launcher.local"]


def test_data_that_only_a_site_knows_need_a_site() -> None:
    assert plan_of(composed("launcher=external", AT_SITE, "model.data=null")).workers[0].dataset is not None
    for overrides in ([], ["launcher=external", "launcher.local=[trainer-0]"]):
        assert "launcher=external" in problems(AT_SITE, *overrides)["the dataset of trainer-0"]
    evaluated = ["launcher=external", AT_SITE, "job.evaluate.dataset=mnist-germany"]
    assert "only a site knows" in problems(*evaluated)["job.evaluate.dataset"]


def test_a_port_is_a_port() -> None:
    assert "65535" in problems("transport.port=65536")["transport.port"]
    assert "at least 0" in problems("transport.port=-1")["transport.port"]


@pytest.mark.parametrize(
    ("advertise", "seen"),
    [(None, "0.0.0.0:4711"), ("job.example.org", "job.example.org:4711"), ("job.example.org:99", "job.example.org:4711"),
     ("[fd00::1]", "[fd00::1]:4711")],
)  # fmt: skip
def test_sites_dial_the_host_that_is_advertised_at_the_port_of_the_controller(advertise: str | None, seen: str) -> None:
    assert address_of_sites("0.0.0.0:4711", advertise) == seen


@pytest.fixture
def invitations(tmp_path: Path) -> MakeInvitations:
    def make(bundles: Path | None) -> Invitations:
        cfg = composed("launcher=external", "launcher.local=[aggregator]")
        plan = plan_of(cfg)
        parts = Parts(plan, cfg, RunFolder(tmp_path / "run"), "secret of the channels")
        return Invitations(plan=plan, parts=parts, names=["trainer-0", "trainer-1"], address="host:4711", bundles=bundles)

    return make


def test_each_worker_of_a_site_gets_a_bundle_and_a_command(invitations: MakeInvitations, tmp_path: Path) -> None:
    invited = invitations(tmp_path / "bundles")
    invited.write("secret")
    bundle = read_bundle(tmp_path / "bundles" / "trainer-1")
    assert (bundle.token, bundle.card.worker, bundle.card.role, bundle.card.address) == (
        "secret",
        "trainer-1",
        "trainer",
        "host:4711",
    )
    assert stat.S_IMODE((tmp_path / "bundles" / "trainer-1").stat().st_mode) == 0o700
    text = "\n".join(invited.text())
    assert f"flame-run join host:4711 --worker trainer-1 --bundle {tmp_path}/bundles/trainer-1" in text
    assert digest_of(invited.parts("trainer-0")) in text
    assert "secret" not in text


def test_sites_that_have_the_token_get_no_bundle(invitations: MakeInvitations) -> None:
    invited = invitations(None)
    invited.write("secret")
    assert "--bundle DIR" in "\n".join(invited.text())


def test_bundles_are_gone_when_the_run_is_over(invitations: MakeInvitations, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    invitations(folder.bundles).write("secret")
    folder.sweep()
    assert not folder.bundles.exists()
