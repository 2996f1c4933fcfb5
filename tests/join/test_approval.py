"""What of a job a site runs, and what it does not."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flame_run.errors import Problem
from flame_run.join.adopt import to_approve
from flame_run.join.approve import Approved
from flame_run.join.site import compose_site


def asked(target: str, code: str = "roles.Trainer") -> dict[str, Any]:
    return {"code": code, "config": {"model": {"module": {"inner": [{"_target_": target, "x": 1}]}}}}


def places(problems: list[Problem]) -> list[str]:
    return [problem.place for problem in problems]


@pytest.mark.parametrize("job", [[], ["experiment=mnist_coordinated"], ["model=mnist_mlp", "experiment=mnist_parallel"]])
def test_the_shipped_jobs_are_approved_by_default(job: list[str], part_of: Callable[..., dict[str, Any]]) -> None:
    part = part_of(*job)
    approved = Approved([])
    assert approved.refusals(to_approve(part, compose_site([]))) == []
    assert approved.strays(to_approve(part, compose_site([]))) == []


@pytest.mark.parametrize(
    "target",
    ["os.system", "subprocess.run", "torch.load", "torch.hub.load", "torch.utils.cpp_extension.load",
     "lightning.pytorch.cli.LightningCLI", "builtins.exec", "hydra.utils.get_method",
     "rolesx.Trainer", "roles", "roles.Trainer.__init__", "torch.nn._x.y", "", 7],
)  # fmt: skip
def test_what_nobody_has_approved_is_refused(target: str) -> None:
    assert places(Approved([]).refusals(asked(target))) == ["config.model.module.inner[0]._target_"]


def test_the_class_of_the_role_is_code_too() -> None:
    assert places(Approved([]).refusals(asked("torch.nn.Linear", code="auditing.Auditor"))) == ["code"]
    assert Approved(["auditing.*"]).refusals(asked("torch.nn.Linear", code="auditing.Auditor")) == []


def test_a_site_can_approve_less_than_the_defaults() -> None:
    approved = Approved(["roles.Trainer", "torch.optim.*"], defaults=False)
    assert approved.refusals(asked("torch.optim.SGD")) == []
    assert places(approved.refusals(asked("torch.nn.Linear"))) == ["config.model.module.inner[0]._target_"]


@given(st.text(alphabet="ab.", min_size=1, max_size=12), st.lists(st.sampled_from(["a.b", "a.*", "a.b.*", "ab.a"]), max_size=3))
def test_only_listed_paths_and_what_is_below_listed_packages_pass(path: str, patterns: list[str]) -> None:
    passes = not Approved(patterns, defaults=False).refusals({"code": path, "config": {}})
    legal = all(path.split(".")) and "." in path
    listed = any(path == pattern or (pattern.endswith(".*") and path.startswith(pattern[:-1])) for pattern in patterns)
    assert passes == (legal and listed)


def test_a_path_that_leaves_its_package_by_an_import_of_that_package_is_found() -> None:
    approved = Approved([])
    wanted = asked("torch.nn.modules.module.torch.hub.load")
    assert approved.refusals(wanted) == []
    assert "torch.hub.load" in str(approved.strays(wanted)[0])
    assert "os" in str(approved.strays(asked("flame_run.data.urls.os.path.join"))[0])
    assert approved.strays(asked("torch.optim.SGD")) == []
    assert Approved(["flame_run.data.urls.os.path.join"]).strays(asked("flame_run.data.urls.os.path.join")) == []


def test_nothing_is_looked_up_at_the_site_for_the_job() -> None:
    def named(name: str) -> dict[str, Any]:
        return {"code": "roles.Trainer", "config": {"job": {"name": name}}}

    approved = Approved([])
    assert places(approved.refusals(named("${worker:name} of ${oc.env:SECRET}"))) == ["config.job.name"]
    assert places(approved.refusals(named("${worker:${oc.env:SECRET}}"))) == ["config.job.name"]
    assert approved.refusals(named("${worker:name} in ${worker:group.param-channel}")) == []


def test_nothing_of_a_refused_job_is_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "unapproved_module.py").write_text("class Model: ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert Approved([]).refusals(asked("unapproved_module.Model"))
    assert "unapproved_module" not in sys.modules


def test_what_the_site_replaces_needs_no_approval(part_of: Callable[..., dict[str, Any]]) -> None:
    part = part_of("+model.trainer.profiler._target_=lightning.pytorch.profilers.SimpleProfiler")
    part["config"]["model"]["data"] = {"_target_": "of_the_job.Data"}
    assert len(Approved([]).refusals(to_approve(part, compose_site([])))) == 2
    site = compose_site(["model.data._target_=ours.Data", "model.trainer.profiler=null"])
    assert Approved([]).refusals(to_approve(part, site)) == []
