"""memory: how much an aggregator holds at its peak, for few and many ends, beside the size of the model.

Counted are all pages that the kernel counts as resident for the process, private ones and those of shared memory, at the
highest point of the whole job, less those that it had before it built its model. The same with a smaller model, which is
still larger than all buffers on the way, tells the part that does not grow with the model: the constant. What is left must
be at most 2.5 sizes.
"""

import statistics
from functools import partial

from tests.benchmarks.command import Job, flame_run
from tests.benchmarks.pages import KINDS
from tests.benchmarks.result import Bound, Options, Row, alternating

SMALL = 32
"""Megabytes of the model that tells the constant."""


def measure(options: Options) -> list[Row]:
    """Rows for each transport and number of ends, in MB of 2**20 bytes."""
    megabytes, counts = (48, (2, 8)) if options.quick else (100, (2, 8, 32))
    rows = []
    for transport in [name for name in options.transports if name != "auto"]:
        for ends in counts:
            samplers = {str(size): partial(_job, size, ends, transport) for size in (megabytes, SMALL)}
            jobs = alternating(options, f"memory, {ends} ends over {transport}", samplers)
            wholes, smalls = ([_peak(job) for job in jobs[str(size)]] for size in (megabytes, SMALL))
            growing = [(whole - small) / (megabytes - SMALL) * megabytes for whole, small in zip(wholes, smalls, strict=True)]
            whole = statistics.median(wholes)
            rows.append(
                Row(
                    benchmark="memory",
                    variant=f"{transport}, {ends} ends",
                    unit="MB",
                    ours=growing,
                    floor_name="model",
                    floor=[float(megabytes)],
                    bound=Bound(factor=2.5, text="<= 2.5 x"),
                    more={
                        "peak, MB": round(whole, 1),
                        "of it constant": round(whole - statistics.median(growing), 1),
                        "in the last round": _kinds(jobs[str(megabytes)][-1]),
                    },
                )
            )
    return rows


def _job(megabytes: int, ends: int, transport: str) -> Job:
    return flame_run(
        "experiment=null_round",
        f"null_round.megabytes={megabytes}",
        f"null_round.trainers={ends}",
        "job.hyperparameters.rounds=4",
        f"transport={transport}",
        "+job.code.aggregator=tests.benchmarks.probes.MemoryAggregator",
    )


def _peak(job: Job) -> float:
    (peak,) = [each["value"] for each in job.metrics if each["name"] == "peak_megabytes"]
    return float(peak)


def _kinds(job: Job) -> str:
    """What it held as it entered the last round, by kind of page."""
    last = {each["name"]: each["value"] for each in job.metrics if each["name"] in KINDS.values()}
    return " + ".join(f"{last[name]:.0f} {name.removesuffix('_megabytes')}" for name in KINDS.values())
