"""Runs the jobs of `jobs.py` one after the other and prints what came out as Markdown.

python -m examples.table [--only NAME ...] [--mnist URL] [--seeds N] [--quick] [--out FOLDER]
"""

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from examples.table.jobs import Job, Table, tables

QUICK = ("job.hyperparameters.rounds=1", "+model.trainer.limit_train_batches=1")
"""Whether it works, not what comes out."""


@dataclass(frozen=True, kw_only=True)
class Result:
    """What one run came to."""

    seed: int
    accuracy: float
    """Of the last model."""
    rounds: int
    reached: float | None
    """Rounds or virtual seconds until the target; None: never."""


def main() -> None:
    """Run what the arguments ask for."""
    options = _options()
    for table in tables(options.mnist, options.seeds):
        if options.only and table.name not in options.only:
            continue
        print(f"\n{table.title}\n", flush=True)
        found = {}
        for job in table.jobs:
            found[job.name] = [_run(table, job, seed, options) for seed in range(table.seeds)]
            for line in _lines(table, job, found[job.name], first=len(found) == 1):
                print(line, flush=True)
        _write(options.out / f"{table.name}.json", table, found)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", default=[], help="names of tables: mcmahan, skewed, stragglers")
    parser.add_argument("--mnist", default="torchvision://MNIST", help="dataset URL of the full MNIST")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each job of the last two tables, seeds 0, 1, ...")
    parser.add_argument("--quick", action="store_true", help="one step of one round of each job")
    parser.add_argument("--out", type=Path, default=Path("outputs"), help="folder of the runs and of NAME.json")
    return parser.parse_args()


def _run(table: Table, job: Job, seed: int, options: argparse.Namespace) -> Result:
    name = "".join(letter if letter.isalnum() else "-" for letter in job.name)
    folder = options.out.absolute() / table.name / f"{name}-{seed}"
    always = (f"job.seed={seed}", "launcher=cohort", "tracking=none", "checkpoint.every=0", f"hydra.run.dir='{folder}'")
    command = [sys.executable, "-m", "flame_run", *job.overrides, *always, *(QUICK if options.quick else ())]
    done = subprocess.run(command, check=False, capture_output=True, text=True)  # noqa: S603 - our own command
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command)}\nended with {done.returncode}:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    summary = json.loads((folder / "summary.json").read_text())
    return Result(
        seed=seed,
        accuracy=summary["metrics"]["accuracy"],
        rounds=summary["rounds"],
        reached=reached(folder / "metrics.jsonl", table),
    )


def reached(path: Path, table: Table) -> float | None:
    """When the global model was first as accurate as the table asks for."""
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    first = min((row["round"] for row in rows if row["name"] == "accuracy" and row["value"] >= table.target), default=None)
    if first is None or table.by == "rounds":
        return first
    return next(float(row["value"]) for row in rows if row["name"] == table.by and row["round"] == first)


def _lines(table: Table, job: Job, results: Sequence[Result], *, first: bool) -> Iterator[str]:
    columns = {"job": job.name, f"{table.by.replace('_', ' ')} to {table.target:.0%}": when([each.reached for each in results])}
    if any(each.paper for each in table.jobs):
        columns["paper"] = job.paper
    columns["accuracy at the end"] = spread([each.accuracy for each in results])
    columns["rounds"] = f"{statistics.mean(each.rounds for each in results):.0f}"
    columns["seeds"] = ", ".join(str(each.seed) for each in results)
    if first:
        yield _row(columns)
        yield _row(["---"] * len(columns))
    yield _row(columns.values())


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def spread(values: Sequence[float]) -> str:
    """The mean, and the least and the largest of several."""
    mean = f"{statistics.mean(values):.4f}"
    return mean if len(values) == 1 else f"{mean} ({min(values):.4f} to {max(values):.4f})"


def when(reached: Sequence[float | None]) -> str:
    """The mean over the seeds that reached the target, and how many did where not all."""
    known = [value for value in reached if value is not None]
    if not known:
        return "not reached"
    return f"{statistics.mean(known):.0f}" + ("" if len(known) == len(reached) else f" ({len(known)} of {len(reached)} seeds)")


def _write(path: Path, table: Table, found: dict[str, list[Result]]) -> None:
    content: dict[str, Any] = {
        "title": table.title,
        "target": table.target,
        "by": table.by,
        "jobs": {name: [vars(each) for each in results] for name, results in found.items()},
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
