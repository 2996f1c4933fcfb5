"""Runs the real command in a copy of an example."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.examples.pages import EXAMPLES, REPOSITORY

LIMIT = 240
"""Seconds that one run may take."""


@pytest.fixture
def copy_of(tmp_path: Path) -> Any:
    """Copy an example, so that a run writes nothing into the checkout."""

    def copy(name: str) -> Path:
        return Path(
            shutil.copytree(EXAMPLES / name, tmp_path / name, ignore=shutil.ignore_patterns("outputs", "mlruns", "mlflow.db*"))
        )

    return copy


@pytest.fixture
def flame_run() -> Any:
    """Run `flame-run` in a folder to its end and return the run folder; fails where the exit status is not 0."""

    def complete(folder: Path, *arguments: str) -> Path:
        kept = {key: value for key, value in os.environ.items() if not key.startswith("MLFLOW_")}
        environment = {**kept, "PYTHONPATH": str(REPOSITORY)}
        done = subprocess.run(
            [sys.executable, "-m", "flame_run", *arguments, "tracking=none"],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=LIMIT,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return Path(done.stdout.splitlines()[-1])

    return complete
