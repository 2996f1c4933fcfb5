"""Every experiment that ships, run by the real command, against a plain PyTorch loop of the same work."""

import hashlib
from pathlib import Path
from typing import Any

import hydra
import pytest
import torch
from lightning.pytorch import LightningModule

from flame_run.config.folder import conf_dir, options
from flame_run.config.groups import register
from flame_run.models import MnistCNN
from flame_run.run.checks import plan_of
from flame_run.topology.plan import Plan
from tests.e2e.oracle import fedavg, subset
from tests.e2e.smooth import SmoothNet

REPOSITORY = Path(__file__).parents[2]
ELSEWHERE = ("null_round", "async_two_tier", "async_hierarchical", "coordinated_async", "two_consumers")
"""Experiments that do not train, those that are no rounds of everybody (see test_virtual_clock, test_coordinated_faults), and
roles with models of their own (see tests/roles/test_two_consumers.py, tests/examples)."""
TRAINING = [name for name in options("experiment") if name not in ELSEWHERE]
TASK_KEYS = ["time", "job_id", "task_id", "worker", "role", "type", "state", "round", "pid", "host", "error"]


def expand(experiment: str) -> Plan:
    register()
    with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return plan_of(hydra.compose("config", [f"experiment={experiment}", "python_path=[]"]))


def trainers_of(plan: Plan, root: str) -> list[Any]:
    """The data consumers below a root: those that share a group with it, directly or through others."""
    reached, fresh = {root}, [root]
    while fresh:
        name = fresh.pop()
        for channel in plan.worker(name).groups:
            for end in plan.ends(name, channel):
                if end not in reached:
                    reached.add(end)
                    fresh.append(end)
    return [worker for worker in plan.workers if worker.name in reached and worker.dataset is not None]


@pytest.mark.parametrize("experiment", TRAINING)
def test_an_experiment_ends_with_the_model_of_a_plain_loop(experiment: str, flame_run: Any) -> None:
    compare(experiment, MnistCNN, flame_run, rounds=1)


@pytest.mark.parametrize("experiment", TRAINING)
def test_it_stays_that_model_over_rounds(experiment: str, flame_run: Any) -> None:
    compare(experiment, SmoothNet, flame_run, rounds=4, batches=20)


def compare(experiment: str, model: type[LightningModule], flame_run: Any, rounds: int, batches: int | None = None) -> None:
    plan = expand(experiment)
    settings = [f"job.hyperparameters.rounds={rounds}", f"model.module._target_={model.__module__}.{model.__name__}"]
    settings += [f"python_path=[{REPOSITORY}]"] + ([f"+model.trainer.limit_train_batches={batches}"] if batches else [])
    run = flame_run(f"experiment={experiment}", *settings, "tracking=none")
    assert run.process.returncode == 0, run.text + run.stderr
    summary = run.json("summary.json")
    assert summary["status"] == "completed"
    assert summary["rounds"] == rounds
    assert summary["workers"] == {worker.name: "completed" for worker in plan.workers}
    assert sorted(summary["roots"]) == sorted(plan.roots)
    for root in plan.roots:
        data = {worker.name: subset(worker.dataset.partition) for worker in trainers_of(plan, root)}
        expected = fedavg(model, data, rounds=rounds, batches=batches)
        found = torch.load(summary["roots"][root]["model"], weights_only=True)
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value, rtol=0, atol=1e-6)


def test_files_of_a_run_keep_their_contract(flame_run: Any) -> None:
    run = flame_run("experiment=mnist_coordinated", "job.hyperparameters.rounds=2", "tracking=none")
    assert run.process.returncode == 0, run.text + run.stderr
    assert Path(run.lines[-1]).is_dir()
    plan, summary = run.json("plan.json"), run.json("summary.json")
    _check_tasks(run.records("tasks.jsonl"), plan)
    for record in run.records("metrics.jsonl"):
        assert list(record) == ["round", "worker", "name", "value", "time"]
    assert list(summary) == [
        "status", "rounds", "metrics", "best", "model", "model_sha256", "workers", "seconds", "round_seconds", "roots", "error",
    ]  # fmt: skip
    assert set(summary["seconds"]) == {"total", "startup", "training"}
    assert set(summary["metrics"]) == {"loss", "accuracy"}
    assert len(summary["round_seconds"]) == 2
    assert summary["model_sha256"] == _sha256(torch.load(summary["model"], weights_only=True))
    best = summary["best"]
    assert best["model_sha256"] == _sha256(torch.load(best["model"], weights_only=True))
    for worker in plan["workers"]:
        assert (run.folder / "workers" / worker["name"] / "worker.log").is_file()
    assert sorted(path.name for path in (run.folder / ".hydra").iterdir()) == ["config.yaml", "hydra.yaml", "overrides.yaml"]
    assert not list(run.folder.rglob("*.tmp"))
    assert not (run.folder / ".rendezvous").exists()
    table = flame_run("tasks", str(run.folder))
    assert table.process.returncode == 0
    for worker in plan["workers"]:
        assert worker["task_id"] in table.text


def _check_tasks(records: list[dict[str, Any]], plan: dict[str, Any]) -> None:
    for worker in plan["workers"]:
        mine = [record for record in records if record["worker"] == worker["name"]]
        assert all(list(record) == TASK_KEYS for record in mine)
        assert {record["task_id"] for record in mine} == {worker["task_id"]}
        states = [record["state"] for record in mine]
        assert (states[0], states[-1]) == ("ready", "completed")
        rounds = [record["round"] for record in mine if record["state"] == "running" and record["round"] is not None]
        assert rounds == sorted(set(rounds))
        if worker["role"] != "middle-aggregator":  # one without trainers sits a round out
            assert rounds == [1, 2]
        pids = {record["pid"] for record in mine if record["state"] in ("running", "completed")}
        assert len(pids) == 1
    assert len({record["pid"] for record in records if record["state"] == "completed"}) == len(plan["workers"])


def _sha256(state: dict[str, torch.Tensor]) -> str:
    """The hash of design 2.5, written anew."""
    digest = hashlib.sha256()
    for key, value in sorted(state.items()):
        dtype = str(value.dtype).split(".")[1]
        digest.update(b"\0".join([key.encode(), dtype.encode(), repr(tuple(value.shape)).encode(), b""]))
        digest.update(value.numpy().tobytes())
    return digest.hexdigest()
