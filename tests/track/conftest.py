import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from flame_run.track import TrackingConf, TrackSettings, make_settings
from flame_run.track.store import open_store, prepare_environment

MODULES = """
import lightning.pytorch as L
import torch

class Straight(L.LightningModule):
    def __init__(self, features=3):
        super().__init__()
        self.layer = torch.nn.Linear(features, 2)
    def forward(self, x):
        return torch.relu(self.layer(x))

class Branching(Straight):
    def forward(self, x):
        return self.layer(x) if x.sum().item() > 0 else -self.layer(x)

class Mute(L.LightningModule):
    def __init__(self, features=3):
        super().__init__()
        self.layer = torch.nn.Linear(features, 2)

class Pair(Straight):
    def forward(self, left, right):
        return {"sum": self.layer(left + right), "difference": self.layer(left - right)}

class Named(Straight):
    def forward(self, batch):
        return self.layer(batch["x"])
"""


MLFLOW_WARNINGS = ("ignore::DeprecationWarning:mlflow", "ignore::FutureWarning:mlflow", "ignore:.*Any type hint:UserWarning")
"""What MLflow and its store do inside is not ours to judge."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            for warning in MLFLOW_WARNINGS:
                item.add_marker(pytest.mark.filterwarnings(warning))


@pytest.fixture(autouse=True)
def own_environment() -> Iterator[None]:
    """MLflow keeps its tracking URI in the environment."""
    before = dict(os.environ)
    yield
    if "mlflow" in sys.modules:
        sys.modules["mlflow"].set_tracking_uri(None)
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty store: making one takes two seconds, copying it none."""
    folder = tmp_path_factory.mktemp("migrated")
    settings = make_settings(TrackingConf(experiment="Default"), run_dir=folder, working_dir=folder, run_name="none")
    prepare_environment(settings)
    store = open_store(settings)
    store.client._tracking_client.store.engine.dispose()
    return folder / "mlflow.db"


@pytest.fixture
def working_dir(tmp_path: Path, migrated: Path) -> Path:
    shutil.copy(migrated, tmp_path / "mlflow.db")
    return tmp_path


@pytest.fixture
def modules(tmp_path: Path) -> Path:
    """A folder of the user's with classes that no package installs."""
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "my_modules.py").write_text(MODULES)
    return folder


class Folder:
    """A run folder as the runner writes it: one aggregator, two trainers."""

    workers = ("aggregator-0", "trainer-0", "trainer-1")

    def __init__(self, path: Path, modules: Path) -> None:
        self.path = path
        self.modules = modules
        (path / "checkpoints").mkdir(parents=True)
        (path / ".hydra").mkdir()
        (path / ".hydra" / "config.yaml").write_text(
            "job: {name: tiny, hyperparameters: {learningRate: 0.1}}\nworker: {name: null}\n"
        )
        plan = {
            "job": {"id": "1234", "name": "tiny"},
            "workers": [
                {
                    "name": name,
                    "task_id": f"{index:040x}",
                    "role": name[:-2],
                    "groups": {"param": "default"},
                    "dataset": f"data-{index}" if name.startswith("trainer") else None,
                    "realm": "default",
                }
                for index, name in enumerate(self.workers)
            ],
        }
        (path / "plan.json").write_text(json.dumps(plan))
        (path / "topology.mmd").write_text("graph LR\n")

    def metric(self, round_: int | None, worker: str, name: str, value: Any, time: float = 1000.0) -> None:
        self.append("metrics.jsonl", {"round": round_, "worker": worker, "name": name, "value": value, "time": time})

    def append(self, file: str, record: Any) -> None:
        with (self.path / file).open("a") as handle:
            handle.write(json.dumps(record) + "\n")

    def rounds(self, count: int, first: int = 1) -> None:
        for round_ in range(first, first + count):
            for index, worker in enumerate(self.workers):
                self.metric(round_, worker, "loss", 1.0 / round_ + index, 1000.0 + round_)

    def module(self, name: str, example: Any, root: str = "") -> Any:
        """Save best and last of a module with given weights; return it as it is saved as best."""
        import torch

        from flame_run.models_io import build_module

        folder = self.path / "checkpoints" / root
        folder.mkdir(exist_ok=True)
        config = {"module": {"_target_": f"my_modules.{name}"}, "python_path": [str(self.modules)]}
        (self.path / "checkpoints" / "module.json").write_text(json.dumps(config))
        if example is not None:
            torch.save(example, self.path / "checkpoints" / "example.pt")
        for kind in ("last", "best"):
            module = build_module(self.path)
            torch.save(module.state_dict(), folder / f"{kind}.pt")
        return module

    def end(self, status: str = "completed", **states: str) -> None:
        for worker in self.workers:
            state = states.get(worker.replace("-", "_"), status)
            self.append(
                "tasks.jsonl", {"worker": worker, "state": state, "host": "here", "error": "boom" if state == "failed" else None}
            )
        summary = {"status": status, "rounds": 3, "best": {"round": 2}, "roots": {"aggregator-0": {}}, "error": None}
        (self.path / "summary.json").write_text(json.dumps(summary))


@pytest.fixture
def folder(tmp_path: Path, modules: Path) -> Folder:
    return Folder(tmp_path / "run", modules)


@pytest.fixture
def settings(working_dir: Path, folder: Folder) -> Callable[..., TrackSettings]:
    def make(**options: Any) -> TrackSettings:
        roots = options.pop("roots", ("aggregator-0",))
        conf = TrackingConf(**{"experiment": "tiny", "timeout": 240.0, **options})
        return make_settings(conf, run_dir=folder.path, working_dir=working_dir, run_name="tiny run", roots=roots)

    return make
