"""Where each millisecond of a null round goes, at the aggregator and at a trainer.

python tests/benchmarks/profile_round.py --megabytes 100 --transport shm
"""

import argparse
import statistics
import sys
from collections import defaultdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from rich.console import Console
from rich.table import Table

from tests.benchmarks import machine
from tests.benchmarks.command import Job, flame_run

PREFIX = "profile/"
PEOPLE = {"aggregator": "the aggregator", "trainer": "a trainer (median of all)"}


def main() -> None:
    """Run one null job with stopwatches and print what they found."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--megabytes", type=float, default=100)
    parser.add_argument("--trainers", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--transport", default="shm")
    given = parser.parse_args()
    if given.rounds < 3:
        parser.error("--rounds: at least 3; the first two are not counted")
    job = flame_run(
        "experiment=null_round",
        f"null_round.megabytes={given.megabytes:g}",
        f"null_round.trainers={given.trainers}",
        f"job.hyperparameters.rounds={given.rounds}",
        f"transport={given.transport}",
        "job.code.trainer=tests.benchmarks.stopwatch.TimedTrainer",
        "+job.code.aggregator=tests.benchmarks.stopwatch.TimedAggregator",
    )
    console = Console(width=max(100, Console().width))
    console.print(machine.describe(machine.machine()), highlight=False)
    seconds = statistics.median(job.rounds)
    console.print(
        f"{given.trainers} x {given.megabytes:g} MB over {given.transport}: round_seconds {1e3 * seconds:.1f} ms (median), "
        f"round to round {1e3 * statistics.median(job.between):.1f} ms",
        highlight=False,
    )
    for role in PEOPLE:
        show(job, role, console)


def show(job: Job, role: str, console: Console) -> None:
    """Print the table of one role: milliseconds per round, largest first."""
    found: defaultdict[str, list[float]] = defaultdict(list)
    for each in job.metrics:
        if each["worker"].startswith(f"{role}-") and each["name"].startswith(PREFIX):
            found[each["name"].removeprefix(PREFIX)].append(each["value"])
    values = {label: statistics.median(samples) for label, samples in found.items()}
    whole = values.pop("round")
    table = Table(title=f"{PEOPLE[role]}: {whole:.1f} ms per round", title_justify="left")
    table.add_column("what")
    for name in ("ms", "%"):
        table.add_column(name, justify="right")
    waiting = [label for label in values if not label.startswith(("beside", "cpu"))]
    beside = [label for label in values if label not in waiting]
    for group in (waiting, beside):
        for label in sorted(group, key=lambda each: -values[each]):
            if values[label] >= 0.005:
                table.add_row(label, f"{values[label]:.2f}", f"{100 * values[label] / whole:.1f}")
        table.add_section()
    console.print(table)


if __name__ == "__main__":
    main()
