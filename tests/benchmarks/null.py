"""null-5, null-100, null-500: rounds of trainers that return the weights unchanged, beside the same bytes by other means."""

import statistics
from functools import partial
from typing import Any

from tests.benchmarks.command import Job, flame_run
from tests.benchmarks.result import Bound, Options, Row, alternating
from tests.benchmarks.scripts import measured_by

TRAINERS = 8
FLOOR_ROUNDS = 4
"""The first of them is not counted."""
BOUNDS = {
    (100, "shm", "TCP"): Bound(factor=0.7, text="<= 0.7 x"),
    (100, "grpc", "gRPC"): Bound(factor=1.5, text="<= 1.5 x"),
    (5, "auto", "TCP"): Bound(factor=1.0, extra=20.0, text="<= + 20 ms"),
}
NAMES = {"TCP": "TCP + average", "gRPC": "bare gRPC streams"}


def measure(megabytes: int, options: Options) -> list[Row]:
    """Rows for each transport beside both floors, in milliseconds per round."""
    rounds = min(options.rounds, 4) if options.quick else options.rounds
    floors: dict[str, Any] = {
        "TCP": partial(_floor, "tcp", megabytes),
        "gRPC": partial(_floor, "grpc_streams", megabytes),
    }
    jobs: dict[str, Any] = {transport: partial(_job, megabytes, transport, rounds) for transport in options.transports}
    found = alternating(options, f"null-{megabytes}", {**floors, **jobs})
    rows = []
    for transport in options.transports:
        ours = [job.rounds for job in found[transport]]
        between = [job.between for job in found[transport]]
        for short, name in NAMES.items():
            rows.append(
                Row(
                    benchmark=f"null-{megabytes}",
                    variant=transport,
                    unit="ms",
                    ours=[1e3 * statistics.median(each) for each in ours],
                    floor_name=name,
                    floor=[1e3 * each for each in found[short]],
                    bound=BOUNDS.get((megabytes, transport, short)),
                    more=_between(between),
                )
            )
    return rows


def _between(samples: list[list[float]]) -> dict[str, float]:
    seconds = [statistics.median(each) for each in samples if each]
    return {"round to round, ms": round(1e3 * statistics.median(seconds), 1)} if seconds else {}


def _floor(name: str, megabytes: int) -> float:
    seconds: list[float] = measured_by(f"tests.benchmarks.floors.{name}", megabytes=megabytes, ends=TRAINERS, rounds=FLOOR_ROUNDS)
    return statistics.median(seconds[1:])


def _job(megabytes: int, transport: str, rounds: int) -> Job:
    return flame_run(
        "experiment=null_round",
        f"null_round.megabytes={megabytes}",
        f"null_round.trainers={TRAINERS}",
        f"job.hyperparameters.rounds={rounds}",
        f"transport={transport}",
    )
