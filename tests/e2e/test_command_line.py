"""What a person types that starts no job."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from flame_run.config.folder import options

HEAVY = {"torch", "lightning", "mlflow", "grpc", "torchvision", "pytorch_lightning"}


def modules_after(arguments: list[str], cwd: Path) -> set[str]:
    code = f"import sys; from flame_run.cli import main; main({arguments!r}); print(*sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=cwd)
    return set(done.stderr.split())


LIGHT = [["--help"], ["--version"], ["plan", "experiment=mnist_coordinated"], ["plan", "--json"], ["tasks", "."], ["plan", "x=1"]]


@pytest.mark.parametrize("arguments", LIGHT)
def test_what_answers_at_once_imports_nothing_heavy(arguments: list[str], tmp_path: Path) -> None:
    assert not HEAVY & modules_after(arguments, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_help_lists_verbs_and_experiments(flame_run: Any) -> None:
    text = flame_run("--help").text
    for word in ("plan", "tasks", "stop", "track", *options("experiment"), "launcher", "transport"):
        assert word in text


def test_plan_json_keeps_its_contract(flame_run: Any) -> None:
    run = flame_run("plan", "--json", "experiment=mnist_hierarchical")
    plan = json.loads(run.text)
    assert list(plan) == ["job", "workers", "channels"]
    assert {"id", "name"} <= set(plan["job"])
    assert len(plan["workers"]) == 7
    for worker in plan["workers"]:
        assert {"name", "task_id", "role", "groups", "dataset", "realm"} <= set(worker)
        assert len(worker["task_id"]) == 40
        assert int(worker["task_id"], 16) >= 0
    groups = {channel["name"]: channel["groups"] for channel in plan["channels"]}
    assert groups["param-channel"]["eu"]["middle-aggregator"] == ["middle-aggregator-0"]


def test_plan_draws_mermaid(flame_run: Any) -> None:
    assert flame_run("plan", "--mermaid", "experiment=smoke").text.startswith("flowchart")


def test_completion_offers_experiments(tmp_path: Path) -> None:
    line = "flame-run experiment=mnist_"
    query = [sys.executable, "-c", "import sys; from flame_run.cli import main; sys.exit(main(['-sc', 'query=bash']))"]
    env = {"COMP_LINE": line, "COMP_POINT": str(len(line)), "PATH": "/usr/bin"}
    done = subprocess.run(query, capture_output=True, text=True, check=False, cwd=tmp_path, env=env)
    assert "experiment=mnist_two_tier" in done.stdout.split()


@pytest.mark.parametrize(
    ("words", "place", "said"),
    [
        (["job.hyperparameters.roundz=3"], "job.hyperparameters.roundz", "did you mean 'rounds'"),
        (["jobb.name=x"], "jobb", "did you mean 'job'"),
        (["launcher=cohort", "launcher.procs=2"], "launcher.procs", "did you mean 'processes'"),
        (["job.seed=0,1"], "job.seed", "flame-run -m"),
        (["job.seed=1", "coordinated_async"], "command line: coordinated_async", "did you mean experiment=coordinated_async?"),
        (["schema=two_teir"], "schema", "did you mean 'two_tier'"),
        (["experiment=mnist_too_tier"], "experiment", "did you mean 'mnist_two_tier'"),
        (["transport.backend=carrier_pigeon"], "transport.backend", "auto"),
        (["checkpoint.every=often"], "checkpoint.every", "often"),
        (["job.name=[1,"], "command line", "job.name=[1,"),
        (["launcher=basic"], "launcher", "local"),
        (["faults.on_worker_loss=panic"], "faults.on_worker_loss", "continue"),
        (["schema_file=nowhere.json"], "schema_file", "no such file"),
        (["job.name=${job.nome}"], "job", "nome"),
        (["model.module.learning_rate=${job.hyperparameters.rate}"], "model", "rate"),
        (["job=null"], "job=null", "must be a string"),
        (["job.hyperparameters=[1,2]"], "job.hyperparameters", "Cannot merge"),
        (["planx"], "flame-run", "did you mean 'plan'"),
    ],
)
def test_what_cannot_be_composed_is_one_clear_error_of_status_2(
    words: list[str], place: str, said: str, tmp_path: Path, flame_run: Any
) -> None:
    run = flame_run(*words)
    assert run.process.returncode == 2
    assert place in run.stderr
    assert said in run.stderr
    assert "Traceback" not in run.stderr
    assert run.text == ""
    assert not list(tmp_path.rglob("*.json*"))


def test_a_configuration_file_that_is_no_yaml_is_named(tmp_path: Path, flame_run: Any) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text("# @package _global_\njob: {name: [broken\n")
    run = flame_run("--config-dir", str(tmp_path), "experiment=mine")
    assert run.process.returncode == 2
    assert "mine.yaml" in run.stderr
    assert "line 3" in run.stderr
    assert "Traceback" not in run.stderr


def test_a_plan_is_of_one_job(tmp_path: Path, flame_run: Any) -> None:
    run = flame_run("plan", "-m", "job.seed=1,2")
    assert run.process.returncode == 2
    assert "leave -m out" in run.stderr
    assert list(tmp_path.iterdir()) == []
