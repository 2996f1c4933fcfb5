"""A worker's part of the plan as a controller gives it out."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hydra
import pytest
from omegaconf import DictConfig

from flame_run.config.folder import conf_dir
from flame_run.config.groups import register
from flame_run.run.checks import plan_of
from flame_run.run.folder import RunFolder
from flame_run.run.parts import Parts

Part = dict[str, Any]


def composed(*overrides: str) -> DictConfig:
    register()
    with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return hydra.compose("config", ["python_path=[]", *overrides])


@pytest.fixture
def part_of(tmp_path: Path) -> Callable[..., Part]:
    """The part of a worker (by default trainer-0) of the job that the overrides say, as it arrives at a site."""

    def make(*overrides: str, worker: str = "trainer-0") -> Part:
        cfg = composed("launcher=external", *overrides)
        parts = Parts(plan_of(cfg), cfg, RunFolder(tmp_path / "run"), "secret of the channels")
        made: Part = json.loads(json.dumps(parts(worker)))
        return made

    return make


@pytest.fixture
def part(part_of: Callable[..., Part]) -> Part:
    """The part of trainer-0 of the default job."""
    return part_of()
