"""Runs the real command in a fresh process and folder."""

import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parents[2]
TIMEOUT = 1800.0
"""Seconds after which a run counts as hanging."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """A job that has ended well."""

    wall: float
    """Seconds from the start of the command to its exit."""
    summary: dict[str, Any]
    tasks: list[dict[str, Any]]
    metrics: list[dict[str, Any]]

    @property
    def rounds(self) -> list[float]:
        """`round_seconds` without the first round, which warms everything up; with it where there is no other."""
        seconds: list[float] = self.summary["round_seconds"]
        return seconds[1:] or seconds

    @property
    def between(self) -> list[float]:
        """Seconds from the start of each round but the first to that of the next, at the root."""
        (root,) = self.summary["roots"]
        starts = [each["time"] for each in self.tasks if each["worker"] == root and each["state"] == "running" and each["round"]]
        return [later - earlier for earlier, later in itertools.pairwise(starts[1:])]


def flame_run(*words: str) -> Job:
    """Run `flame-run` with `words` in a new folder.

    Raises:
        SystemExit: it failed; the text is what it said.
    """
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "flame_run", *words, f"python_path=[{REPOSITORY}]", f"hydra.run.dir={folder}/run"]
        began = time.perf_counter()
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=TIMEOUT, check=False)
        wall = time.perf_counter() - began
        if done.returncode != 0:
            raise SystemExit(f"{' '.join(command)}\n{done.stdout}{done.stderr}")
        run = Path(folder) / "run"
        tasks, metrics = ([json.loads(line) for line in (run / f"{name}.jsonl").open()] for name in ("tasks", "metrics"))
        return Job(wall=wall, summary=json.loads((run / "summary.json").read_text()), tasks=tasks, metrics=metrics)
