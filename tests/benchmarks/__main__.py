"""Measures what the runner costs beside what the machine could do at best, and prints one table.

python -m tests.benchmarks [--only null-100,cold] [--repeat 5] [--rounds 10] [--quick] [--json PATH]
"""

import argparse
import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from rich.console import Console

from tests.benchmarks import codec, cold, fit, machine, memory, null, training
from tests.benchmarks.result import Options, Row
from tests.benchmarks.table import show

BENCHMARKS: dict[str, Callable[[Options], list[Row]]] = {
    "null-5": partial(null.measure, 5),
    "null-100": partial(null.measure, 100),
    "null-500": partial(null.measure, 500),
    "mnist-small": partial(training.measure, training.WORKS["mnist-small"]),
    "many": partial(training.measure, training.WORKS["many"]),
    "many-small": partial(training.measure, training.WORKS["many-small"]),
    "cold": cold.measure,
    "fit": fit.measure,
    "memory": memory.measure,
    "codec": codec.measure,
}
SLOW = ("null-500",)
"""Left out by --quick unless asked for by name."""


def main() -> None:
    """Measure what was asked for; the exit status says whether all of it could be measured, nothing about speed."""
    given = arguments()
    errors = Console(stderr=True)
    options = Options(
        repeat=given.repeat or (1 if given.quick else 5),
        rounds=given.rounds,
        quick=given.quick,
        transports=tuple(given.transports.split(",")),
        say=lambda text: errors.print(f"[{time.strftime('%H:%M:%S')}] {text}", markup=False, highlight=False),
    )
    names = given.only.split(",") if given.only else [name for name in BENCHMARKS if not (given.quick and name in SLOW)]
    found = machine.machine()
    console = Console(width=max(150, Console().width))
    console.print(machine.describe(found), highlight=False)
    rows: list[Row] = []
    failed: list[str] = []
    given.json.parent.mkdir(parents=True, exist_ok=True)
    for name in names:
        try:
            rows += BENCHMARKS[name](options)
        except SystemExit as error:  # what it ran has failed: the others still can be measured
            options.say(f"{name} could not be measured: {error}")
            failed.append(name)
        given.json.write_text(json.dumps({"machine": found, "rows": [row.as_json() for row in rows]}, indent=2) + "\n")
    show(rows, console)
    console.print(f"written to {given.json}", highlight=False)
    if failed:
        raise SystemExit(f"could not be measured: {', '.join(failed)}")


def arguments() -> argparse.Namespace:
    """The words of the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", help=f"benchmarks, separated by commas: {', '.join(BENCHMARKS)}")
    parser.add_argument("--repeat", type=int, help="samples of each measure (default 5; with --quick 1)")
    parser.add_argument("--rounds", type=int, default=10, help="rounds of a null job")
    parser.add_argument("--transports", default="shm,grpc,auto")
    parser.add_argument("--quick", action="store_true", help="everything once and smaller, to see that it works")
    parser.add_argument("--json", type=Path, default=Path("outputs/bench.json"))
    given = parser.parse_args()
    unknown = [name for name in (given.only or "").split(",") if name and name not in BENCHMARKS]
    if unknown:
        parser.error(f"unknown: {', '.join(unknown)}; known: {', '.join(BENCHMARKS)}")
    return given


if __name__ == "__main__":
    main()
