"""The soak: many rounds with 8 workers; memory and open files of each of them and of the runner must not grow.

`python -m tests.chaos.soak --rounds 2000` prints the slopes and says for each process whether it is flat; the exit status
is 1 if one is not.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
import uuid
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.chaos import remains
from tests.chaos.slopes import ALLOWED, MIB, Sample, is_flat, sample, slope, warm
from tests.chaos.stage import GLANCE, environment

ROUNDS = 2000
WORKERS = 8
SAMPLES = 100
"""Samples of each process."""
SECONDS_OF_A_ROUND = 5.0
"""A bound; a round takes about 0.2 s on two cores."""
Samples = Mapping[str, list[Sample]]


def overrides(rounds: int, workers: int, transport: str) -> list[str]:
    """A job of one aggregator and trainers of a small network, each of which takes one step in each round.

    Each round is evaluated and stored, as by default: what happens rarely would be in its warm-up for most of the run.
    """
    cut = f"{{strategy: iid, count: {workers - 1}}}"
    return [
        "schema=two_tier",
        "dataset=smoke",
        f'dataset.datasets=[{{name: part, url: "builtin://mnist-mini", realm: default, partition: {cut}}}]',
        "dataset.dataSpec=[{role: trainer, datasets: [part]}]",
        "model=mnist_mlp",
        "+model.trainer.limit_train_batches=1",
        "tracking=none",
        f"transport={transport}",
        f"job.hyperparameters.rounds={rounds}",
        "hydra.run.dir=here",
    ]


class Soak:
    """One long run, looked at again and again.

    Args:
        place: the working folder.
        rounds: how many.
        workers: trainers and the aggregator.
        transport: of the models.
    """

    def __init__(self, place: Path, *, rounds: int, workers: int = WORKERS, transport: str = "auto") -> None:
        self.samples: defaultdict[str, list[Sample]] = defaultdict(list)
        self._tasks = place / "here" / "tasks.jsonl"
        self._read = 0
        self._pids: dict[str, int] = {}
        self._round = 0
        self._every = max(1, rounds // SAMPLES)
        mark = uuid.uuid4().hex
        before = remains.segments()
        command = [sys.executable, "-m", "flame_run", *overrides(rounds, workers, transport)]
        with (place / "out").open("wb") as out:
            process = subprocess.Popen(
                command, cwd=place, stdout=out, stderr=out, env=environment(mark, place), start_new_session=True
            )
        self._pids["runner"] = process.pid
        try:
            self._watch(process, time.monotonic() + 120 + rounds * SECONDS_OF_A_ROUND)
        finally:
            for each in remains.processes(mark) if process.poll() is None else ():
                each.kill()
            process.wait()
        self.problems = [] if process.returncode == 0 else [(place / "out").read_text()[-2000:]]
        self.problems += remains.of_run(mark, before)

    @property
    def growing(self) -> list[str]:
        """What is not flat."""
        return [
            f"{what} of {name}"
            for name, samples in self.samples.items()
            for what in ALLOWED
            if not is_flat(warm(samples), what)
        ]  # fmt: skip

    def _watch(self, process: "subprocess.Popen[bytes]", until: float) -> None:
        looked = 0
        while time.monotonic() < until:
            try:
                process.wait(GLANCE)
            except subprocess.TimeoutExpired:
                self._follow()
                if self._round >= looked + self._every:
                    looked = self._round
                    self._look()
            else:
                return
        raise TimeoutError(f"the soak is in round {self._round} and should be over")

    def _follow(self) -> None:
        """Read what is new in `tasks.jsonl`."""
        if not self._tasks.exists():
            return
        with self._tasks.open("rb") as file:
            file.seek(self._read)
            lines = file.read().splitlines(keepends=True)
        for line in lines:
            if line.endswith(b"\n"):
                self._read += len(line)
                record = json.loads(line)
                self._round = max(self._round, record["round"] or 0)
                if record["pid"]:
                    self._pids[record["worker"]] = record["pid"]

    def _look(self) -> None:
        for name, pid in self._pids.items():
            if (seen := sample(pid, self._round)) is not None:
                self.samples[name].append(seen)


def table(samples: Samples) -> list[str]:
    """The slopes of each process after the warm-up, per 1,000 rounds, and what it held at the end of it and of the run."""
    lines = [
        f"{'':16}{'private KiB':>14}{'shared KiB':>14}{'descriptors':>14}   private MiB, shared MiB, descriptors: first -> last"
    ]
    for name, all_of_it in samples.items():
        mine = warm(all_of_it)
        slopes = [1000 * slope(mine, what) for what in ("private", "shared", "descriptors")]
        numbers = f"{slopes[0] / 1024:14.1f}{slopes[1] / 1024:14.1f}{slopes[2]:14.2f}"
        held = [f"{each.private / MIB:.1f}, {each.shared / MIB:.1f}, {each.descriptors}" for each in (mine[0], mine[-1])]
        flat = all(is_flat(mine, what) for what in ALLOWED)
        lines.append(f"{name:16}{numbers}   {held[0]} -> {held[1]}   {'flat' if flat else 'GROWS'}")
    return lines


def main(given: Sequence[str] | None = None) -> int:
    """Soak; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.soak", description="Does anything grow from round to round?")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--workers", type=int, default=WORKERS)
    parser.add_argument("--transport", default="auto", choices=("auto", "grpc", "shm"))
    options = parser.parse_args(given)
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        began = time.monotonic()
        soak = Soak(Path(folder), rounds=options.rounds, workers=options.workers, transport=options.transport)
        print(f"{options.rounds} rounds, {options.workers} workers, {time.monotonic() - began:.0f} s; growth per 1,000 rounds:")
    print("\n".join([*table(soak.samples), *soak.problems]))
    print(
        f"not flat: {', '.join(soak.growing)}" if soak.growing else "flat: memory and descriptors of the runner and of every worker"
    )
    return int(bool(soak.growing or soak.problems))


if __name__ == "__main__":
    sys.exit(main())
