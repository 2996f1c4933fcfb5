"""Reading the metrics of a run folder while they grow: from a byte offset on, and no line is an error."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Slice:
    """Some whole lines of a file."""

    records: tuple[Mapping[str, Any], ...]
    offset: int
    """Byte after the last line."""
    skipped: int = 0
    """Lines that are not JSON objects."""


def read_records(path: Path, offset: int, limit: int | None = None) -> Slice:
    """Read up to `limit` whole lines from byte `offset` on; a last line without its end is left for the next time.

    A missing file is an empty one. A file shorter than `offset` was written anew and is read from its start.
    """
    records: list[Mapping[str, Any]] = []
    skipped = 0
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return Slice((), offset)
    with file:
        if path.stat().st_size < offset:
            offset = 0
        file.seek(offset)
        while limit is None or len(records) < limit:
            line = file.readline()
            if not line.endswith(b"\n"):
                break
            offset += len(line)
            record = _parse(line)
            if record is None:
                skipped += 1
            else:
                records.append(record)
    return Slice(tuple(records), offset, skipped)


def count_records(path: Path, offset: int) -> int:
    """Return the number of records after byte `offset`."""
    return len(read_records(path, offset).records)


def milliseconds(time: object) -> int:
    """Return a record's `time`, seconds since 1970 or ISO 8601 text, in milliseconds since 1970."""
    seconds = datetime.fromisoformat(time).timestamp() if isinstance(time, str) else float(str(time))
    return round(seconds * 1000)


def _parse(line: bytes) -> Mapping[str, Any] | None:
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) else None
