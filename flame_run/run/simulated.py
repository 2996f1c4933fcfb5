"""`job.simulatedTime`: from the job's words to what roles run by, and the file of a trace."""

import csv
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from flame_run.errors import Problem

if TYPE_CHECKING:
    from roles.simulated import Simulated

COLUMNS: Final = ("worker", "round", "compute", "network")
Trace = dict[str, dict[int, tuple[float, float]]]
"""Worker -> round -> seconds of training, and of each transfer."""


class BadTrace(ValueError):
    """A trace that cannot be used, and why."""


def read_trace(path: Path) -> Trace:
    """Read a CSV with the columns worker, round (from 1), compute and network (seconds).

    Raises:
        BadTrace: it is not there, or not like that; names the line.
    """
    found: Trace = {}
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            missing = [column for column in COLUMNS if column not in (reader.fieldnames or ())]
            if missing:
                raise BadTrace(f"has no column {', '.join(missing)}")
            for row in reader:
                _take(row, found, f"line {reader.line_num}")
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise BadTrace(f"cannot be read: {error}") from error
    if not found:
        raise BadTrace("holds no line but its columns")
    return found


def _take(row: Mapping[str | None, str | None], found: Trace, line: str) -> None:
    worker, *texts = (row[column] for column in COLUMNS)
    if worker is None or None in row or None in texts:
        raise BadTrace(f"{line}: too few or too many values")
    try:
        round_, compute, network = int(texts[0] or ""), float(texts[1] or ""), float(texts[2] or "")
    except ValueError as error:
        raise BadTrace(f"{line}: {error}") from error
    if round_ < 1 or not (0 <= compute < math.inf and 0 <= network < math.inf):
        raise BadTrace(f"{line}: rounds count from 1, seconds from 0")
    if round_ in found.setdefault(worker, {}):
        raise BadTrace(f"{line}: round {round_} of {worker} is there already")
    found[worker][round_] = (compute, network)


def check_simulated(job: Mapping[str, Any], workers: list[str]) -> list[Problem]:
    """What is wrong with `job.simulatedTime` beyond its JSON Schema, for these workers."""
    given = job.get("simulatedTime") or {}
    problems = [
        Problem(f"job.simulatedTime.workers.{name}", factor, "there is no such worker", "a name that `flame-run plan` lists")
        for name, factor in (given.get("workers") or {}).items()
        if name not in workers
    ]
    if given.get("trace"):
        try:
            traced = sorted(read_trace(Path(given["trace"])))
            reason = "" if set(traced) & set(workers) else f"names no worker of this job, only {', '.join(traced[:5])}"
        except BadTrace as error:
            reason = str(error)
        if reason:
            problems.append(Problem("job.simulatedTime.trace", given["trace"], reason, f"a CSV with {', '.join(COLUMNS)}"))
    return problems


def simulated_of(job: Mapping[str, Any]) -> "Simulated | None":
    """The virtual clock of a job, whose trace has been read (`flame_run.run.carried`); None where the real one runs."""
    given = job.get("simulatedTime")
    if given is None:
        return None
    from roles.simulated import Simulated, Span  # noqa: PLC0415 - NumPy, which `flame-run plan` does not need

    trace = {
        worker: {at: Span(compute, network) for at, compute, network in rows} for worker, rows in (given.get("trace") or {}).items()
    }
    return Simulated(
        compute=given.get("compute", 1.0),
        network=given.get("network", 0.0),
        spread=given.get("spread", 0.0),
        jitter=given.get("jitter", 0.0),
        workers=given.get("workers") or {},
        trace=trace,
        seed=job.get("seed", 0),
    )
