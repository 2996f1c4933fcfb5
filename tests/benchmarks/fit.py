"""fit: what Lightning costs in each round of a trainer, beside a bare loop over the same batches."""

import statistics

from tests.benchmarks.result import Options, Row
from tests.benchmarks.scripts import measured_by


def measure(options: Options) -> list[Row]:
    """A row for a short fit and one for a longer one, in milliseconds."""
    rows = []
    for batches in (3, 30):
        options.say(f"fit: {batches} batches, {options.repeat} times")
        found = measured_by("tests.benchmarks.fit_speed", batches=batches, repeat=options.repeat)
        ours, bare = ([1e3 * each for each in found[name]] for name in ("fit", "bare"))
        overhead = statistics.median(ours) - statistics.median(bare)
        rows.append(
            Row(
                benchmark="fit",
                variant=f"{batches} batches of 20",
                unit="ms",
                ours=ours,
                floor_name="bare loop",
                floor=bare,
                more={"overhead of a fit, ms": round(overhead, 2)},
            )
        )
    return rows
