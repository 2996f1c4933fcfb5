"""mnist-small, many, many-small: jobs that train, beside plain PyTorch loops of the same work, without imports."""

import statistics
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from tests.benchmarks.command import Job, flame_run
from tests.benchmarks.floors.imports import import_seconds
from tests.benchmarks.result import Bound, Options, Row, alternating
from tests.benchmarks.scripts import measured_by

SHIPPED = 10_000
"""Training images that ship with the package."""


@dataclass(frozen=True, kw_only=True)
class Work:
    """What is trained."""

    name: str
    network: str
    clients: int
    images: int
    batch: int
    rounds: int
    launcher: str
    bound: Bound


MANY = Work(
    name="many",
    network="large",
    clients=100,
    images=60,
    batch=20,
    rounds=5,
    launcher="cohort",
    bound=Bound(factor=1.5, text="<= 1.5 x"),
)
WORKS = {
    "mnist-small": Work(
        name="mnist-small",
        network="large",
        clients=4,
        images=1000,
        batch=32,
        rounds=10,
        launcher="local",
        bound=Bound(factor=1.15, text="<= 1.15 x"),
    ),
    "many": MANY,
    # The same with a network so small that a fit takes milliseconds: everything around it shows.
    "many-small": replace(MANY, name="many-small", network="small"),
}


def measure(work: Work, options: Options) -> list[Row]:
    """The command less the imports, and its rounds alone, beside the loop on two processes and on one; in seconds."""
    rounds = min(work.rounds, 2) if options.quick else work.rounds
    counts = (2, 1)
    samplers: dict[str, Any] = {"imports": import_seconds}
    samplers |= {f"loop on {count}": partial(_floor, work, rounds, count) for count in counts}
    samplers["flame-run"] = partial(_job, work, rounds)
    found = alternating(options, work.name, samplers)
    imports = statistics.median(found["imports"])
    jobs: list[Job] = found["flame-run"]
    rows = []
    for count in counts:
        loops = found[f"loop on {count}"]
        of = f"plain loop, {count} process{'es' if count > 1 else ''}"
        whole, alone = [job.wall - imports for job in jobs], [sum(job.summary["round_seconds"]) for job in jobs]
        more = {
            "launcher": work.launcher,
            "imports taken off, s": round(imports, 2),
            "accuracy": jobs[0].summary["metrics"].get("accuracy"),
        }
        row = partial(Row, benchmark=work.name, unit="s", floor_name=of)
        bound = work.bound if count == counts[0] else None
        rows.append(row(variant="command", ours=whole, floor=[loop["seconds"] for loop in loops], bound=bound, more=more))
        rows.append(row(variant="rounds alone", ours=alone, floor=[loop["rounds"] for loop in loops]))
    return rows


def _floor(work: Work, rounds: int, processes: int) -> dict[str, float]:
    found: dict[str, float] = measured_by(
        "tests.benchmarks.floors.training",
        network=work.network,
        clients=work.clients,
        images=work.images,
        batch=work.batch,
        rounds=rounds,
        processes=processes,
    )
    return found


def _job(work: Work, rounds: int) -> Job:
    from tests.benchmarks.models import MODULES

    parts = SHIPPED // work.images
    cuts = [f"{{strategy: iid, index: {index}, of: {parts}}}" for index in range(work.clients)]
    datasets = ", ".join(
        f"{{name: part-{index}, url: 'builtin://mnist-mini', realm: default, partition: {cut}}}" for index, cut in enumerate(cuts)
    )
    names = ", ".join(f"part-{index}" for index in range(work.clients))
    return flame_run(
        "schema=two_tier",
        f"dataset.datasets=[{datasets}]",
        f"dataset.dataSpec=[{{role: trainer, datasets: [{names}]}}]",
        f"model.module._target_={MODULES[work.network]}",
        f"job.hyperparameters.batchSize={work.batch}",
        f"job.hyperparameters.rounds={rounds}",
        # A part can have one image more than the others.
        f"+model.trainer.limit_train_batches={-(-work.images // work.batch)}",
        "job.evaluate.every=0",
        "checkpoint.every=0",
        "tracking=none",
        f"launcher={work.launcher}",
    )
