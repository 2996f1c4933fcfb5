"""The table that people read."""

import statistics
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from tests.benchmarks.result import Row

VERDICTS = {True: "holds", False: "MISSED", None: ""}


def show(rows: Sequence[Row], console: Console) -> None:
    """Print one table; a line apart for each benchmark."""
    table = Table(title="medians, floors measured in the same run", title_justify="left")
    for name, right in (
        *(("benchmark", False), ("variant", False), ("ours", True), ("floor", True), ("", False)),
        *(("ratio", True), ("must", False), ("", False), ("more", False)),
    ):
        table.add_column(name, justify="right" if right else "left", overflow="fold")
    last = ""
    for row in rows:
        if last and row.benchmark != last:
            table.add_section()
        table.add_row(
            row.benchmark if row.benchmark != last else "",
            row.variant,
            amount(row.ours, row.unit),
            amount(row.floor, row.unit),
            row.floor_name,
            f"{row.ratio:.2f}",
            row.bound.text if row.bound else "",
            VERDICTS[row.holds],
            ", ".join(f"{key}: {value}" for key, value in row.more.items()),
        )
        last = row.benchmark
    console.print(table)


def amount(samples: Sequence[float], unit: str) -> str:
    """The median in its unit, with three or more digits."""
    value = statistics.median(samples)
    digits = 0 if value >= 100 else 1 if value >= 10 else 2
    return f"{value:,.{digits}f} {unit}"
