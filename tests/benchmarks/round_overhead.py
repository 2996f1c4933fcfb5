"""The overhead of a round: 8 trainers, one aggregator, a model of 5 MB, beside plain PyTorch doing the same work.

    python tests/benchmarks/round_overhead.py [rounds]

Prints medians over rounds: the null round (trainers return the weights unchanged) is pure overhead; a round with
training stands beside the plain loop in one process and beside half of that, which is what two cores could do at best.
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

REPOSITORY = Path(__file__).parents[2]
sys.path.insert(0, str(REPOSITORY))

from flame_run import torchvision_guard  # noqa: E402

torchvision_guard.install()

from tests.benchmarks.wide import Wide  # noqa: E402

TRAINERS, IMAGES, BATCH = 8, 250, 25


def run(rounds: int, *overrides: str) -> list[float]:
    """`round_seconds` of a job, without the first round, which warms everything up."""
    with tempfile.TemporaryDirectory() as folder:
        cut = f"{{strategy: iid, count: {TRAINERS}}}"
        words = [
            "tracking=none",
            "model=mnist_mlp",
            "model.module._target_=wide.Wide",
            "schema=two_tier",
            f"dataset.datasets=[{{name: part, url: 'builtin://mnist-mini', dataFormat: idx, realm: default, partition: {cut}}}]",
            "dataset.dataSpec=[{role: trainer, datasets: [part]}]",
            f"python_path=[{Path(__file__).parent}]",
            f"job.hyperparameters.rounds={rounds}",
            f"job.hyperparameters.batchSize={BATCH}",
            f"+model.trainer.limit_train_batches={IMAGES // BATCH}",
            "job.evaluate.every=0",
            "checkpoint.every=0",
            f"hydra.run.dir={folder}/run",
            *overrides,
        ]
        done = subprocess.run([sys.executable, "-m", "flame_run", *words], cwd=folder, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise SystemExit(done.stdout + done.stderr)
        summary = json.loads((Path(folder) / "run" / "summary.json").read_text())
        return list(summary["round_seconds"][1:])


def plain() -> float:
    """Seconds of the local training of one round in one process with one thread: median of five.

    Each trainer has a model of its own, as in the job: together they do not fit into the caches.
    """
    torch.set_num_threads(1)
    models = [Wide() for _ in range(TRAINERS)]
    x, y = torch.rand(IMAGES, 1, 28, 28), torch.randint(0, 10, (IMAGES,))
    times = []
    for _ in range(5):
        began = time.perf_counter()
        for model in models:
            optimizer = model.configure_optimizers()
            for first in range(0, IMAGES, BATCH):
                optimizer.zero_grad()
                model.training_step((x[first : first + BATCH], y[first : first + BATCH]), 0).backward()
                optimizer.step()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def main() -> None:
    """Measure and print."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    null = run(rounds, "+job.code.trainer=wide.NullTrainer")
    trained = run(rounds)
    floor = plain()
    print(f"{TRAINERS} trainers, 5 MB, {rounds - 1} rounds, medians in ms")
    spread = f"(min {1e3 * min(null):.1f}, max {1e3 * max(null):.1f})"
    print(f"  null round (overhead alone)       {1e3 * statistics.median(null):8.1f}   {spread}")
    print(f"  round with training               {1e3 * statistics.median(trained):8.1f}")
    print(f"  plain PyTorch, one process        {1e3 * floor:8.1f}")
    print(f"  plain PyTorch, two cores at best  {5e2 * floor:8.1f}")
    print(f"  ratio to the two-core floor       {statistics.median(trained) / (floor / 2):8.2f}")


if __name__ == "__main__":
    main()
