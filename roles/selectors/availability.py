"""Availability traces: who is there in which rounds. Free of torch."""

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

Intervals = Mapping[str, tuple[tuple[int, int | None], ...]]
"""Worker -> first and last round, both included, of each interval in which it is available; last None: to the end."""

COLUMNS = ("worker", "first", "last")


def parse(trace: Mapping[str, Any], place: str = "selector.intervals") -> Intervals:
    """Read {worker: [[first, last], ...]}; a single number is an interval of one round, a last round of null has no end.

    Raises:
        ValueError: an interval is not of this form; the text begins with `place`.
    """
    if not isinstance(trace, Mapping):
        raise ValueError(  # noqa: TRY004 - a bad value of the configuration
            f"{place} must map workers to intervals of rounds, not be a {type(trace).__name__}"
        )
    return {
        str(worker): tuple(_interval(each, f"{place}.{worker}") for each in _listed(rows, f"{place}.{worker}"))
        for worker, rows in trace.items()
    }


def read(path: Path) -> Intervals:
    """Read a trace from a file: JSON as `parse` has it, or CSV with the columns worker, first, last (empty: to the end).

    A worker that is never available has a JSON entry without intervals, or a CSV row with both fields empty.

    Raises:
        ValueError: the file cannot be read or is of another form; the text names it.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"selector.file: {path} cannot be read: {error}") from error
    if path.suffix == ".json":
        try:
            return parse(json.loads(text), str(path))
        except json.JSONDecodeError as error:
            raise ValueError(f"selector.file: {path} is not JSON: {error}") from error
    return _table(text.splitlines(), path)


def available(trace: Intervals, worker: str, round: int, *, unlisted: bool) -> bool:
    """Whether a worker is there in a round; `unlisted`: what is so for those that the trace does not name."""
    if worker not in trace:
        return unlisted
    return any(first <= round and (last is None or round <= last) for first, last in trace[worker])


def _table(lines: Sequence[str], path: Path) -> Intervals:
    rows = csv.DictReader(lines)
    if tuple(name.strip() for name in rows.fieldnames or ()) != COLUMNS:
        raise ValueError(f"selector.file: {path} must begin with the line {','.join(COLUMNS)}")
    found: dict[str, list[Any]] = {}
    for number, values in enumerate(csv.reader(lines[1:]), start=2):
        if not values:
            continue
        if len(values) != len(COLUMNS):
            raise ValueError(f"selector.file: {path}, line {number}: {len(values)} fields instead of {len(COLUMNS)}")
        worker, first, last = (value.strip() for value in values)
        intervals = found.setdefault(worker, [])
        if first or last:
            intervals.append([_whole(first), _whole(last)])
    return parse(found, str(path))


def _whole(field: str) -> Any:
    if not field:
        return None
    return int(field) if field.isdecimal() else field


def _listed(rows: Any, place: str) -> Sequence[Any]:
    if isinstance(rows, str) or not isinstance(rows, Sequence):
        raise ValueError(  # noqa: TRY004 - a bad value of the configuration
            f"{place} must be a list of intervals such as [[1, 5], [9, null]], not {rows!r}"
        )
    return rows


def _interval(value: Any, place: str) -> tuple[int, int | None]:
    pair = (value, value) if isinstance(value, int) else value
    if not isinstance(pair, str) and isinstance(pair, Sequence) and len(pair) == 2:  # noqa: PLR2004 - first and last
        first, last = pair
        if _counts(first) and (last is None or (_counts(last) and last >= first)):
            return first, last
    raise ValueError(f"{place} must hold intervals [first, last] of rounds from 1, or [first, null], not {value!r}")


def _counts(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1
