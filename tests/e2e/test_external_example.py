"""The federation of `examples/external`, as its page says, at tiny size."""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

EXAMPLE = Path(__file__).parents[2] / "examples" / "external"


def test_two_sites_train_one_model_each_with_its_own_way_to_its_data(start: Any, tmp_path: Path) -> None:
    folder = shutil.copytree(EXAMPLE, tmp_path / "external", ignore=shutil.ignore_patterns("outputs", "bundle", "joined", "*.npz"))
    subprocess.run([sys.executable, "data.py"], cwd=folder, env={"PYTHONPATH": str(EXAMPLE.parents[1])}, check=True)
    assert start("token", "bundle", cwd=folder).finish() == 0
    settings = ["--config-dir", "conf", "experiment=federation", "security.token_file=bundle/token", "tracking=none"]
    job = start(*settings, "job.hyperparameters.rounds=1", "+model.trainer.limit_train_batches=5", cwd=folder)
    address = job.await_line(r"^waiting at").split()[2]
    sites = [
        start("join", address, "--worker", worker, "--bundle", "../bundle", "--site", "site.yaml", cwd=folder / site)
        for site, worker in (("north", "trainer-0"), ("south", "trainer-1"))
    ]
    assert [each.finish() for each in (job, *sites)] == [0, 0, 0], job.stderr + "".join(site.stderr for site in sites)
    assert "accuracy" in job.json("summary.json")["metrics"]
    assert not [path for path in job.folder.rglob("*") if path.is_file() and b"records.Records" in path.read_bytes()]
