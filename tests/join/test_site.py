"""The configuration of a site, and a worker's part as the site carries it out."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
from omegaconf import DictConfig

from flame_run.errors import InvalidConfig
from flame_run.join.adopt import adopt, objections
from flame_run.join.digest import digest_of
from flame_run.join.site import SiteConf, compose_site

PartOf = Callable[..., dict[str, Any]]


def refused(*overrides: str) -> dict[str, str]:
    with pytest.raises(InvalidConfig) as caught:
        compose_site(overrides)
    return {problem.place: str(problem) for problem in caught.value.problems}


@pytest.mark.parametrize(
    ("override", "place", "word"),
    [
        ("dataset.pth=x", "dataset.pth", "path"),
        ("sight.folder=x", "sight.folder", "site"),
        ("site.dial_only=perhaps", "site.dial_only", "bool"),
        ("site.join_timeout=0", "site.join_timeout", "above 0"),
        ("dataset.path=/no/such/file", "dataset.path", "no such file"),
        ("dataset.url=ftp://host/file", "dataset.url", "not a dataset URL"),
        ("model.data.root=here", "model.data", "_target_"),
        ("python_path=[/no/such/folder]", "python_path", "no such folder"),
        ("approve.targets=[pickle]", "approve.targets[0]", "PACKAGE.*"),
        ("approve.digest=abc", "approve.digest", "64 hex digits"),
        ("site.folder='${job.name}'", "site.folder", "interpolation"),
        ("transport.bind=a,b", "flame-run join", "one value"),
    ],
)
def test_what_is_wrong_with_a_site_is_told_with_its_place(override: str, place: str, word: str) -> None:
    found = refused(override)
    assert word in found[place], found


def test_a_file_of_the_site_comes_before_its_overrides(tmp_path: Path) -> None:
    file = tmp_path / "site.yaml"
    file.write_text("approve: {targets: [ours.*]}\nsite: {dial_only: true, folder: kept}\n")
    site = compose_site(["site.folder=elsewhere", "model.data._target_=ours.Data", "model.data.root=/data"], file)
    assert (site.site.dial_only, site.site.folder, list(site.approve.targets)) == (True, "elsewhere", ["ours.*"])
    assert dict(site.model.data) == {"_target_": "ours.Data", "root": "/data"}
    file.write_text("aprove: {}\n")
    with pytest.raises(InvalidConfig, match="approve"):
        compose_site([], file)


def test_the_site_says_where_its_data_lie_and_the_job_what_to_compute(part: dict[str, Any], tmp_path: Path) -> None:
    before = json.dumps(part)
    site = compose_site([
        f"dataset.path={tmp_path}", "dataset.whole=true", "python_path=[.]", "transport.bind=0.0.0.0", "transport.advertise=host",
        "model.trainer.accelerator=gpu", "model.data._target_=ours.Data",
        "model.data.batch='${job.hyperparameters.batchSize}'", "model.data.root='${worker:dataset.path}'",
    ])  # fmt: skip
    own = adopt(part, site)
    assert own["worker"]["dataset"] == {**part["worker"]["dataset"], "url": f"file://{tmp_path}", "partition": None}
    assert own["config"]["model"]["data"] == {"_target_": "ours.Data", "batch": 32, "root": "${worker:dataset.path}"}
    assert own["config"]["model"]["trainer"]["accelerator"] == "gpu"
    assert own["config"]["transport"]["bind"] == "0.0.0.0"
    assert own["config"]["python_path"] == ["."]
    for key in ("module", "trainer"):
        assert set(part["config"]["model"][key]) <= set(own["config"]["model"][key])
    assert json.dumps(part) == before


def test_the_part_stays_as_it_is_where_the_site_says_nothing(part: dict[str, Any]) -> None:
    own = adopt(part, compose_site([]))
    assert own["worker"] == part["worker"]
    assert own["config"]["model"] == part["config"]["model"]


def test_a_root_at_a_site_keeps_its_models_in_a_folder_of_the_site(part_of: PartOf, tmp_path: Path) -> None:
    part = part_of(worker="aggregator-0")
    own = adopt(part, compose_site([f"site.folder={tmp_path / 'kept'}"]))
    home = tmp_path / "kept" / part["job"]["run"] / "aggregator-0"
    assert (own["folder"], own["state_folder"]) == (str(home / "models"), str(home / "state"))
    part["job"]["run"] = "../../elsewhere"
    part["worker"]["name"] = "../trainer-0"
    assert {problem.place for problem in objections(part, compose_site([]))} == {"job.run", "worker.name"}


def test_data_settings_for_a_worker_without_data_are_a_mistake(part_of: PartOf) -> None:
    part = part_of("experiment=mnist_coordinated", worker="coordinator-0")
    with pytest.raises(InvalidConfig, match="uses no data"):
        adopt(part, compose_site(["model.data._target_=ours.Data"]))


def objecting(part: dict[str, Any], *overrides: str) -> str:
    return "\n".join(str(problem) for problem in objections(part, compose_site(overrides)))


def test_a_path_of_the_job_is_never_looked_for_at_a_site(part: dict[str, Any], tmp_path: Path) -> None:
    part["worker"]["dataset"]["url"] = f"file://{tmp_path}"
    assert "dataset.path" in objecting(part)
    assert objecting(part, f"dataset.path={tmp_path}") == ""
    assert objecting(part, "model.data._target_=ours.Data") == ""
    own = adopt(part, compose_site(["model.data._target_=ours.Data"]))
    assert own["worker"]["dataset"]["url"] == "site://"


def test_a_job_that_leaves_the_data_to_its_sites_needs_a_site_that_says(part: dict[str, Any]) -> None:
    part["worker"]["dataset"]["url"] = "site://"
    assert "the job leaves it to this site" in objecting(part)
    assert objecting(part, "dataset.url=builtin://mnist-mini") == ""


def test_a_site_that_can_only_dial_out_hosts_nothing(part_of: PartOf) -> None:
    aggregator, trainer = part_of(worker="aggregator-0"), part_of()
    assert objecting(trainer, "site.dial_only=true") == ""
    assert "job.roles.aggregator.dialOnly=true" in objecting(aggregator, "site.dial_only=true")
    flipped = part_of("+job.roles.aggregator.dialOnly=true", worker="aggregator-0")
    assert objecting(flipped, "site.dial_only=true") == ""
    assert objecting(aggregator) == ""


def test_the_digest_is_that_of_what_is_computed(part_of: PartOf) -> None:
    one = digest_of(part_of())
    assert one == digest_of(part_of(worker="trainer-3"))
    assert one == digest_of(part_of("transport.port=4711", "faults.heartbeat=7", "python_path=[.]"))
    assert one != digest_of(part_of("job.hyperparameters.rounds=7"))
    assert one != digest_of(part_of("model=mnist_mlp"))
    assert one != digest_of(part_of(worker="aggregator-0"))


def test_the_configuration_of_a_site_has_types() -> None:
    assert set(cast("DictConfig", compose_site([]))) == set(SiteConf.__dataclass_fields__)
