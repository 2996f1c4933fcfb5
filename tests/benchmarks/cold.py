"""cold: the smallest job, from the command to its exit, beside one import of torch and Lightning."""

from tests.benchmarks.command import flame_run
from tests.benchmarks.floors.imports import GUARDED, import_seconds, statement
from tests.benchmarks.result import Bound, Options, Row, alternating

WORDS = ("experiment=null_round", "null_round.megabytes=1", "null_round.trainers=2", "job.hyperparameters.rounds=1")


def measure(options: Options) -> list[Row]:
    """One row, in seconds."""
    _command()  # what Python compiles and the disk reads once is no part of a start
    guarded = statement() == GUARDED
    found = alternating(options, "cold", {"imports": import_seconds, "flame-run": _command})
    more = {"imports": "with the project's torchvision guard: the plain import fails here"} if guarded else {}
    return [
        Row(
            benchmark="cold",
            variant="1 round, 2 trainers",
            unit="s",
            ours=found["flame-run"],
            floor_name="import torch, lightning",
            floor=found["imports"],
            bound=Bound(factor=1.6, text="<= 1.6 x"),
            more=more,
        )
    ]


def _command() -> float:
    return flame_run(*WORDS).wall
