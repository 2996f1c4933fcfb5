"""The tables of the examples: that their jobs run, and that what is printed is what the runs came to."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from examples.table.__main__ import reached, when
from examples.table.jobs import Job, Table, tables
from flame_run.cli import main
from tests.examples.pages import REPOSITORY

BY_ROUNDS = Table(name="t", title="", jobs=(), target=0.9)
BY_CLOCK = Table(name="t", title="", jobs=(), target=0.9, by="virtual_seconds")
JOBS = [pytest.param(job, id=f"{table.name}-{job.name}") for table in tables("torchvision://MNIST", seeds=1) for job in table.jobs]


@pytest.mark.parametrize("job", JOBS)
def test_every_job_of_every_table_plans_without_a_problem(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    status = main(["plan", "--json", *job.overrides])
    output = capsys.readouterr()
    assert (status, output.err) == (0, "")
    planned = json.loads(output.out)
    assert len([worker for worker in planned["workers"] if worker["dataset"] is not None]) in (20, 100)
    assert list(tmp_path.iterdir()) == []


def test_every_job_of_the_last_table_runs_and_is_printed_with_its_seeds(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "examples.table", "--quick", "--only", "stragglers", "--seeds", "1", "--out", str(tmp_path)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    title, _, head, _, *rows = done.stdout.strip().splitlines()
    table = next(each for each in tables("", 1) if each.name == "stragglers")
    assert title == table.title
    assert head.startswith("| job | virtual seconds to 90% |")
    stored = json.loads((tmp_path / "stragglers.json").read_text())["jobs"]
    for row, job in zip(rows, table.jobs, strict=True):
        accuracy = stored[job.name][0]["accuracy"]
        assert row == f"| {job.name} | not reached | {accuracy:.4f} | 1 | 0 |"


@pytest.mark.parametrize(("table", "expected"), [(BY_ROUNDS, 3), (BY_CLOCK, 4.5)])
def test_the_target_is_reached_with_the_first_model_that_is_good_enough(table: Table, expected: float, tmp_path: Path) -> None:
    values = [
        (1, "accuracy", 0.5),
        (1, "virtual_seconds", 1.5),
        (3, "virtual_seconds", 4.5),
        (3, "accuracy", 0.9),
        (4, "accuracy", 1.0),
    ]
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps({"round": round, "name": name, "value": value}) + "\n" for round, name, value in values))
    assert reached(path, table) == expected
    path.write_text("")
    assert reached(path, table) is None


@pytest.mark.parametrize(
    ("found", "text"), [([None, None], "not reached"), ([3.0, 5.0], "4"), ([None, 5.0], "5 (1 of 2 seeds)"), ([7.2], "7")]
)
def test_seeds_that_never_got_there_are_not_part_of_the_mean(found: list[float | None], text: str) -> None:
    assert when(found) == text
