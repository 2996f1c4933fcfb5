"""What the README files say is true: pictures, commands, files and the three lines that load a model."""

import json
import re
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from flame_run.cli import VERBS, main
from flame_run.config.folder import options
from tests.examples.pages import EXAMPLES, REPOSITORY, Command, blocks, commands, tour

README = REPOSITORY / "README.md"
PAGES = sorted(EXAMPLES.glob("*/README.md"))
SHOWN = [(page, command) for page in [README, *PAGES] for command in commands(page)]


def named(value: Any) -> str:
    return shlex.join(value.words) if isinstance(value, Command) else value.parent.name


@pytest.fixture
def beside(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Stand where a page's commands are typed: in its own example, or for the project's page among the files that it shows."""

    def stand(page: Path) -> None:
        if page == README:
            tour(README, tmp_path)
        monkeypatch.chdir(tmp_path if page == README else page.parent)
        monkeypatch.setattr(sys, "path", list(sys.path))

    return stand


def test_every_example_has_a_page_with_a_picture_and_a_command() -> None:
    folders = [path for path in EXAMPLES.iterdir() if path.is_dir() and not path.name.startswith((".", "_"))]
    assert sorted(page.parent for page in PAGES) == sorted(folders)
    for page in PAGES:
        assert blocks(page, "mermaid"), page
        assert any(command.is_job for command in commands(page)), page
        assert blocks(page, "text"), page


def test_every_shipped_experiment_is_shown_by_an_example() -> None:
    shown = {word.removeprefix("experiment=") for page in PAGES for command in commands(page) for word in command.words}
    assert set(options("experiment")) <= shown
    assert set(options("experiment")) - {page.parent.name for page in PAGES} == {"realms_three_tier"}


@pytest.mark.parametrize(("page", "command"), SHOWN, ids=named)
def test_a_command_of_a_page_is_one_that_the_runner_knows(
    page: Path, command: Command, beside: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    if not command.is_job:
        assert command.words[0] in VERBS or main(list(command.words)) == 0
        return
    beside(page)
    for words in command.plans():
        status = main(["plan", *words])
        output = capsys.readouterr()
        assert status == command.status, output.err
        if status:
            assert output.err in blocks(page, "text"), output.err


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_a_picture_is_what_the_plan_draws(page: Path, beside: Any, capsys: pytest.CaptureFixture[str]) -> None:
    beside(page)
    first = [command for command in commands(page) if command.is_job and command.words[0] != "plan"][: len(blocks(page, "mermaid"))]
    for picture, command in zip(blocks(page, "mermaid"), first, strict=True):
        assert main(["plan", "--mermaid", *command.words]) == 0
        drawn = capsys.readouterr().out
        assert drawn.startswith(picture.rstrip("\n"))


@pytest.mark.parametrize("page", [README, *PAGES], ids=named)
def test_links_of_a_page_lead_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    headings = {"#" + title.lower().replace(" ", "-") for title in re.findall(r"^#+ (.+)$", text, re.MULTILINE)}
    for target in re.findall(r"\]\(([^)]+)\)", text):
        assert target.startswith("https://") or target in headings or (page.parent / target).exists(), target


def test_the_model_of_the_tour_comes_back_in_three_lines(tmp_path: Path, flame_run: Any) -> None:
    tour(README, tmp_path)
    folder = flame_run(tmp_path, "--config-dir", "conf", "experiment=first", "job.hyperparameters.rounds=1")
    summary = json.loads((folder / "summary.json").read_text())
    assert (summary["status"], len(summary["workers"])) == ("completed", 7)
    (lines,) = blocks(README, "python")
    assert len(lines.splitlines()) == 3
    known: dict[str, Any] = {"x": torch.rand(5, 1, 28, 28)}
    exec(lines.replace("outputs/...", str(folder)), known)  # the page's own words
    answer = known["model"](known["x"])
    assert (answer.shape, answer.dtype) == ((5, 10), torch.float32)
    assert not known["model"].training


def test_a_model_of_ones_own_trains_and_comes_back(copy_of: Any, flame_run: Any) -> None:
    from flame_run import load_model

    folder = flame_run(copy_of("own_model"), "--config-dir", "conf", "experiment=own_model", "job.hyperparameters.rounds=1")
    summary = json.loads((folder / "summary.json").read_text())
    assert list(summary["workers"].values()) == ["completed"] * 6
    assert summary["metrics"]["accuracy"] > 0.5
    model = load_model(folder)
    assert type(model).__name__ == "DigitsClassifier"
    assert model(torch.rand(3, 64)).shape == (3, 10)


def test_two_kinds_of_clients_train_one_model_from_any_folder(tmp_path: Path, flame_run: Any) -> None:
    folder = flame_run(tmp_path, "experiment=two_consumers", "job.hyperparameters.rounds=2")
    summary = json.loads((folder / "summary.json").read_text())
    assert list(summary["workers"].values()) == ["completed"] * 5
    assert summary["metrics"]["accuracy_image"] > 0.7
    assert summary["metrics"]["accuracy_table"] > 0.4
    state = torch.load(summary["model"], weights_only=True)
    assert {name.partition(".")[0] for name in state} == {"image", "table", "head"}


def test_roles_of_ones_own_report_to_each_other(copy_of: Any, flame_run: Any) -> None:
    folder = flame_run(copy_of("own_role"), "--config-dir", "conf", "experiment=own_role", "job.hyperparameters.rounds=1")
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    moved = {record["name"]: record["value"] for record in records if record["worker"] == "auditor-0"}
    assert sorted(moved) == ["moved/trainer-0", "moved/trainer-1"]
    log = (folder / "workers" / "auditor-0" / "worker.log").read_text()
    for name, value in moved.items():
        assert value > 0
        assert f'"{name.removeprefix("moved/")}"' in log
        assert str(value) in log


def test_a_job_runs_from_files_in_the_vocabulary_of_flame(copy_of: Any, flame_run: Any) -> None:
    example = copy_of("flame_files")
    (command,) = [
        command for command in commands(EXAMPLES / "flame_files" / "README.md") if "job.name=flame_files" in command.words
    ]
    folder = flame_run(example, *command.words, "job.hyperparameters.rounds=1")
    plan = json.loads((folder / "plan.json").read_text())
    assert [(worker["name"], worker["groups"].get("param-channel"), worker["dataset"]) for worker in plan["workers"]] == [
        ("trainer-0", "na", "mnist-canada"),
        ("trainer-1", "na", "mnist-us"),
        ("trainer-2", "eu", "mnist-germany"),
        ("middle-aggregator-0", "na", None),
        ("middle-aggregator-1", "eu", None),
        ("top-aggregator-0", None, None),
    ]
    assert json.loads((folder / "summary.json").read_text())["status"] == "completed"
