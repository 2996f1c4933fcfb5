"""Federations whose sites start their own workers: real processes that meet on loopback."""

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flame_run.join.bundle import Card, make_token, read_bundle, write_bundle
from tests.e2e.conftest import Run
from tests.e2e.wiretap import Wiretap

SITES = (0, 1)
SETTINGS = ["model=mnist_mlp", "job.hyperparameters.rounds=2", "job.evaluate.every=0", "tracking=none"]
EXTERNAL = ["launcher=external", "launcher.local=[aggregator]"]


def write_data(folder: Path, site: int) -> Path:
    """Sixty random images of a site, whose folder has a name that nobody else may hear of."""
    draw = np.random.default_rng(site)
    path = folder / f"confidential-{site}" / "images.npz"
    path.parent.mkdir(parents=True)
    np.savez(path, x=draw.integers(0, 256, (60, 28, 28), dtype=np.uint8), y=draw.integers(0, 10, 60))
    return path


def write_spec(folder: Path, urls: list[str]) -> str:
    datasets = [{"name": f"site-{site}", "url": urls[site], "dataFormat": "npz", "realm": "default"} for site in SITES]
    path = folder / "spec.json"
    spec = {"datasets": datasets, "dataSpec": [{"role": "trainer", "datasets": ["site-0", "site-1"]}]}
    path.write_text(json.dumps(spec))
    return f"dataset_file={path}"


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The model of the same job with launcher=local, where all data lie on one machine."""
    folder = tmp_path_factory.mktemp("expected")
    urls = [f"file://{write_data(folder, site)}" for site in SITES]
    run = Run([*SETTINGS, write_spec(folder, urls)], folder)
    assert run.finish() == 0, run.text + run.stderr
    return str(run.json("summary.json")["model_sha256"])


class Federation:
    """A run with launcher=external whose trainers' data only their sites know, and the sites."""

    def __init__(self, start: Any, folder: Path, *options: str) -> None:
        self._start = start
        self.data = [write_data(folder / "sites", site) for site in SITES]
        self.run: Run = start(*SETTINGS, *EXTERNAL, write_spec(folder, ["site://", "site://"]), *options, cwd=folder)
        self.address = self.run.await_line(r"^waiting at").split()[2]
        self.digest = self.run.await_line("digest of what role trainer is asked").split()[-1]
        (commands,) = [[line.split() for line in self.run.lines if "--worker trainer-0" in line]]
        self.bundles = Path(commands[0][-1]).parent

    def join(self, name: str, *options: str, address: str | None = None, bundle: Path | None = None) -> Run:
        """Join as worker `name`, with the data of its site unless the options say otherwise."""
        data = [] if any("data" in option for option in options) else [f"dataset.path={self.data[int(name[-1])]}"]
        words = [address or self.address, "--worker", name, "--bundle", str(bundle or self.bundles / name)]
        cwd = None if bundle else self.data[int(name[-1])].parent
        run: Run = self._start("join", *words, *data, *options, cwd=cwd)
        return run


@pytest.fixture
def federation(start: Any, tmp_path: Path) -> Any:
    def make(*options: str) -> Federation:
        return Federation(start, tmp_path, *options)

    return make


def files_of(folder: Path) -> Iterator[tuple[Path, bytes]]:
    for path in folder.rglob("*"):
        if path.is_file():
            yield path, path.read_bytes()


def test_workers_that_join_from_their_sites_make_the_model_of_launcher_local(expected: str, federation: Any) -> None:
    job = federation()
    with Wiretap(job.address) as tap:
        second = job.join("trainer-1", address=tap.address)
        second.await_line("admitted")
        stranger = job.join("trainer-1")
        assert (stranger.finish(), "registered already and alive" in stranger.stderr) == (2, True), stranger.stderr
        # Without it the job does not begin, so it was not over before the stranger came.
        first = job.join("trainer-0", "site.dial_only=true", "--approve-digest", job.digest)
        assert [each.finish() for each in (job.run, first, second)] == [0, 0, 0], job.run.text + first.stderr + second.stderr
        sent, received = tap.seen("there"), tap.seen("back")
    assert job.run.json("summary.json")["model_sha256"] == expected
    types = {record["worker"]: record["type"] for record in job.run.records("tasks.jsonl")}
    assert types == {"trainer-0": "user", "trainer-1": "user", "aggregator-0": "system"}
    assert b"trainer-1" in sent
    assert b"roles.Trainer" in received
    assert b"confidential" not in sent
    assert not [path for path, content in files_of(job.run.folder) if b"confidential" in content]
    assert not (job.run.folder / "bundles").exists()
    assert not job.run.left_over()


FAILING = """
from lightning.pytorch import LightningDataModule

class Broken(LightningDataModule):
    def setup(self, stage):
        raise ValueError("the records of Jane Doe in confidential-0 cannot be read")
    def train_dataloader(self):
        self.setup("fit")
"""


def test_an_error_of_a_site_is_named_to_the_job_and_told_to_the_site_alone(federation: Any) -> None:
    job = federation()
    (job.data[0].parent / "ours.py").write_text(FAILING)
    with Wiretap(job.address) as tap:
        other = job.join("trainer-1")
        other.await_line("admitted")
        site = job.join("trainer-0", "model.data._target_=ours.Broken", address=tap.address)
        assert site.finish() == 1
        assert job.run.finish() == 1
        sent = tap.seen("there")
    assert "Jane Doe" in site.stderr
    assert "trainer-0 failed" in job.run.stderr
    assert "its text stays in the log of its site" in job.run.stderr
    assert b"ValueError" in sent
    assert b"Jane Doe" not in sent
    assert other.finish() == 1
    assert "the job has ended" in other.stderr


def test_a_site_refuses_a_job_whose_code_it_has_not_approved(start: Any, tmp_path: Path) -> None:
    (tmp_path / "theirs.py").write_text("raise SystemError('imported')\nclass Model: ...\n")
    run = start(*SETTINGS, *EXTERNAL, "dataset=smoke", "model.module._target_=theirs.Model", cwd=tmp_path)
    address = run.await_line(r"^waiting at").split()[2]
    bundle = run.await_line("--worker trainer-0").split()[-1]
    site = start("join", address, "--worker", "trainer-0", "--bundle", bundle, f"python_path=[{tmp_path}]", cwd=tmp_path)
    assert site.finish() == 2, site.stderr
    assert "config.model.module._target_ = 'theirs.Model': this site has not approved it" in site.stderr
    assert "imported" not in site.stderr
    assert run.finish() == 1
    assert "trainer-0 failed before round 1: its site refuses the job" in run.stderr
    assert "theirs.Model" in run.stderr


def test_whoever_is_not_wanted_or_does_not_want_is_told_and_leaves_with_status_two(federation: Any, tmp_path: Path) -> None:
    job = federation("faults.join_timeout=240")
    wrong, named = make_token(tmp_path / "wrong").parent, tmp_path / "named"
    write_bundle(named, Card(), read_bundle(job.bundles / "trainer-0").token)
    stranger, nobody = job.join("trainer-0", bundle=wrong), job.join("trainer-7", f"dataset.path={tmp_path}", bundle=named)
    assert (stranger.finish(), "has no valid job token" in stranger.stderr) == (2, True), stranger.stderr
    assert (nobody.finish(), "is not a worker of this job" in nobody.stderr) == (2, True), nobody.stderr
    unapproved = job.join("trainer-0", "--approve-digest", "0" * 64)
    assert unapproved.finish() == 2
    assert "another configuration" in unapproved.stderr
    assert job.run.finish() == 1
    assert "trainer-0" in job.run.stderr


def test_ctrl_c_at_a_site_leaves_cleanly(federation: Any) -> None:
    job = federation()
    site = job.join("trainer-0")
    site.await_line("admitted")
    site.signal(signal.SIGINT)
    assert site.finish() == 130, site.stderr
    assert job.run.finish() == 1
    assert "trainer-0 failed before round 1: interrupted at its site" in job.run.stderr


def test_a_job_waits_for_its_sites_no_longer_than_it_says_and_names_who_has_not_come(federation: Any) -> None:
    job = federation("faults.join_timeout=8")
    site = job.join("trainer-1")
    assert job.run.finish() == 1
    assert "faults.join_timeout (8 s)" in job.run.stderr
    assert "not joined by its site: trainer-0" in job.run.stderr
    assert site.finish() in (1, 2)


def test_a_job_goes_on_with_a_site_that_was_lost_and_joins_again(expected: str, federation: Any) -> None:
    job = federation("faults.on_worker_loss=restart", "faults.heartbeat=8", "security=tls")
    other, first = job.join("trainer-1"), job.join("trainer-0")
    first.await_line("admitted")
    first.signal(signal.SIGKILL)
    assert first.finish() == -signal.SIGKILL
    job.run.await_line("its site may join again")
    again = job.join("trainer-0")
    assert [each.finish() for each in (job.run, other, again)] == [0, 0, 0], job.run.text + job.run.stderr + again.stderr
    assert job.run.json("summary.json")["model_sha256"] == expected
    states = [record["state"] for record in job.run.records("tasks.jsonl") if record["worker"] == "trainer-0"]
    assert "restarting" in states
    assert states[-1] == "completed"


def test_every_worker_may_be_at_a_site_that_can_only_dial_out_but_one(expected: str, start: Any, tmp_path: Path) -> None:
    data = [write_data(tmp_path / "sites", site) for site in SITES]
    token = make_token(tmp_path / "bundle")
    spec = write_spec(tmp_path, ["site://", "site://"])
    options = [f"security.token_file={token}", "+job.roles.aggregator.dialOnly=true", "launcher=external"]
    run = start(*SETTINGS, spec, *options)
    address = run.await_line(r"^waiting at").split()[2]
    bundle = ["--bundle", str(token.parent)]
    root = start("join", address, "--worker", "aggregator-0", *bundle, "site.dial_only=true", f"site.folder={tmp_path / 'kept'}")
    trainers = [start("join", address, "--worker", f"trainer-{site}", *bundle, f"dataset.path={data[site]}") for site in SITES]
    assert [each.finish() for each in (run, root, *trainers)] == [0, 0, 0, 0], run.text + root.stderr
    assert run.json("summary.json")["model_sha256"] == expected
    assert list((tmp_path / "kept").glob("*/aggregator-0/models/last.pt"))
    assert not list(run.folder.rglob("last.pt"))
    assert token.read_text().strip().encode() not in b"".join(content for _, content in files_of(run.folder))
