"""What a run folder tells of how its run was started."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from omegaconf import OmegaConf

from flame_run.errors import InvalidConfig
from flame_run.run.folder import RunFolder
from flame_run.run.past import read_past


def begun(folder: RunFolder, **changes: Any) -> RunFolder:
    """A folder as a run leaves it."""
    folder.create()
    folder.hydra.mkdir()
    hydra = {
        "overrides": {"task": [], "hydra": []},
        "job": {"config_name": "config"},
        "runtime": {"cwd": str(folder.path), "config_sources": [{"path": "/conf", "schema": "file", "provider": "main"}]},
    }
    OmegaConf.save(OmegaConf.create({"job": {"seed": 0}}), folder.config)
    (folder.hydra / "hydra.yaml").write_text(yaml.safe_dump({"hydra": {**hydra, **changes}}))
    folder.plan.write_text(json.dumps({"job": {"id": "123"}}))
    return folder


def test_the_words_of_a_run_are_its_overrides_and_the_id_that_it_had(tmp_path: Path) -> None:
    task = ["experiment=smoke", "+model.module.lr=${job.hyperparameters.learningRate}", "job.id='123'"]
    own = ["hydra.run.dir=here", "hydra.mode=MULTIRUN", "hydra.sweep.subdir='${job.seed}'", "hydra.searchpath=[file:///more]"]
    folder = begun(RunFolder(tmp_path), overrides={"task": task, "hydra": own})
    assert read_past(folder).words == ("hydra.searchpath=[file:///more]", *task[:2], "job.id='123'")


def test_a_configuration_of_the_persons_own_is_found_again(tmp_path: Path) -> None:
    sources = [
        {"path": "/conf", "schema": "file", "provider": "main"},
        {"path": "/mine", "schema": "file", "provider": "command-line"},
    ]
    runtime = {"cwd": str(tmp_path), "config_sources": sources}
    past = read_past(begun(RunFolder(tmp_path), runtime=runtime, job={"config_name": "other"}))
    assert past.words == ("--config-dir", "/mine", "--config-name", "other", "job.id='123'")
    assert past.cwd == tmp_path


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (lambda folder: folder.plan.unlink(), r"its run ended before it began: there is no \S+plan\.json"),
        (lambda folder: folder.config.write_text("a: [b"), "its configuration cannot be read"),
        (lambda folder: (folder.hydra / "hydra.yaml").write_text("hydra: 3"), "its configuration cannot be read"),
        (lambda folder: folder.plan.write_text("{"), "its configuration cannot be read"),
    ],
)
def test_a_folder_that_tells_too_little_is_a_problem(harm: Any, words: str, tmp_path: Path) -> None:
    folder = begun(RunFolder(tmp_path))
    harm(folder)
    with pytest.raises(InvalidConfig, match=words):
        read_past(folder)


def test_the_folder_where_a_run_was_started_must_be_there(tmp_path: Path) -> None:
    runtime = {"cwd": str(tmp_path / "gone"), "config_sources": []}
    with pytest.raises(InvalidConfig, match=r"it was started in \S+gone, and there is no such folder any more"):
        read_past(begun(RunFolder(tmp_path), runtime=runtime))
