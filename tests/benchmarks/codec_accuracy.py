"""What each codec does to the accuracy of a small job, and how many bytes a round takes with it.

python -m tests.benchmarks.codec_accuracy [--rounds 5] [--json PATH]: trains `mnist_two_tier` on the images that come with
the package, once for each codec with the same seed, and prints a table. Runs one after the other, a few seconds each.
"""

import argparse
import json
import sys
from collections import defaultdict
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from tests.benchmarks.command import flame_run

CODECS = (
    "null",
    "bf16",
    "fp16",
    "int8",
    "{upload: [delta, bf16]}",
    "{upload: [delta, int8]}",
    "{upload: [delta, int8], distribute: bf16}",
    "{upload: topk}",
    "{upload: {name: topk, fraction: 0.01}}",
    "{upload: [topk, int8], distribute: bf16}",
    "{upload: [topk, int8], distribute: int8}",
)
"""Values of `transport.codec.param-channel`; null: weights travel as they are."""


@dataclass(frozen=True, slots=True)
class Trained:
    """One job: accuracy after each round, and bytes of all workers in one round."""

    codec: str
    accuracy: list[float]
    loss: float
    upload_bytes: float
    distribute_bytes: float


def main() -> None:
    """Train with each codec and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="also write the results there")
    parser.add_argument("overrides", nargs="*", help="further overrides of the job")
    given = parser.parse_args()
    found = []
    for codec in CODECS:
        print(f"training with {codec}", file=sys.stderr)
        found.append(trained(codec, given.rounds, given.overrides))
    show(found)
    if given.json is not None:
        given.json.write_text(json.dumps([asdict(each) for each in found], indent=2) + "\n")


def trained(codec: str, rounds: int, overrides: list[str]) -> Trained:
    """Run the job with one codec.

    Raises:
        SystemExit: it failed.
    """
    words = [
        "experiment=mnist_two_tier", "tracking=none", "checkpoint.every=0", f"job.hyperparameters.rounds={rounds}",
        f"transport.codec.param-channel={codec}", *overrides,
    ]  # fmt: skip
    job = flame_run(*words)
    values: dict[str, dict[int, float]] = defaultdict(lambda: defaultdict(float))
    for each in job.metrics:
        values[each["name"]][each["round"]] += each["value"]
    accuracy = [values["accuracy"][round] for round in range(1, rounds + 1)]
    return Trained(codec, accuracy, values["loss"][rounds], values["upload_bytes"][1], values["distribute_bytes"][1])


def show(found: list[Trained]) -> None:
    """Print one line for each codec; sizes also as parts of those without a codec, which come first."""
    plain = found[0]
    table = Table(title=f"{len(plain.accuracy)} rounds of mnist_two_tier", title_justify="left")
    for name in ("transport.codec.param-channel", "accuracy by round", "loss", "uploads, KB", "", "models, KB", ""):
        table.add_column(name, justify="left" if name.startswith("transport") else "right", no_wrap=True)
    for each in found:
        table.add_row(
            Text(each.codec),
            "  ".join(f"{value:.3f}" for value in each.accuracy),
            f"{each.loss:.3f}",
            f"{each.upload_bytes / 1000:,.0f}",
            f"{each.upload_bytes / plain.upload_bytes:.3f}",
            f"{each.distribute_bytes / 1000:,.0f}",
            f"{each.distribute_bytes / plain.distribute_bytes:.3f}",
        )
    Console(width=150).print(table)


if __name__ == "__main__":
    main()
