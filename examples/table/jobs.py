"""The jobs of the tables: what the command line would say, and what the papers report."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Job:
    """One line of a table."""

    name: str
    overrides: tuple[str, ...]
    paper: str = ""
    """What the paper has in this place."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """Jobs that are compared with each other."""

    name: str
    title: str
    jobs: tuple[Job, ...]
    target: float
    """Accuracy on the test images that a job is to reach."""
    by: str = "rounds"
    """What it takes to get there: `rounds`, or `virtual_seconds` of the simulated clock."""
    seeds: int = 1


def clients(count: int, cut: str, url: str) -> tuple[str, ...]:
    """A dataset of `count` clients, one for each part of the cut."""
    dataset = f"{{name: part, url: '{url}', dataFormat: idx, realm: default, partition: {{{cut}, count: {count}}}}}"
    return ("schema=two_tier", f"dataset.datasets=[{dataset}]", "dataset.dataSpec=[{role: trainer, datasets: [part]}]")


def hyperparameters(*, rounds: int, epochs: int, batch: int, rate: float) -> tuple[str, ...]:
    """Those that every job has."""
    prefix = "job.hyperparameters"
    return (
        f"{prefix}.rounds={rounds}",
        f"{prefix}.epochs={epochs}",
        f"{prefix}.batchSize={batch}",
        f"{prefix}.learningRate={rate}",
    )


def mcmahan(url: str) -> Table:
    """Table 1 of McMahan et al. 2017, the row of C = 0.1 and the columns of B = 10: 2NN, E = 1, 100 clients."""
    common = ("model=mnist_mlp", "selector=random", "selector.k=0.1", "job.stop.target=0.97")
    iid, shards = clients(100, "strategy: iid", url), clients(100, "strategy: shards, shardsPerClient: 2", url)
    return Table(
        name="mcmahan",
        title="Rounds to 97 % with the 2NN on MNIST: 100 clients, C = 0.1, E = 1, B = 10 (McMahan et al. 2017, table 1)",
        target=0.97,
        jobs=(
            Job(name="IID", overrides=(*common, *iid, *hyperparameters(rounds=300, epochs=1, batch=10, rate=0.1)), paper="87"),
            Job(
                name="two labels per client",
                overrides=(*common, *shards, *hyperparameters(rounds=1000, epochs=1, batch=10, rate=0.05)),
                paper="664",
            ),
        ),
    )


def skewed(seeds: int) -> Table:
    """Algorithms against label skew, on the shipped subset."""
    common = (
        "model=mnist_mlp",
        "selector=random",
        "selector.k=0.5",
        *clients(20, "strategy: dirichlet, alpha: 0.1, minSize: 10", "builtin://mnist-mini"),
        *hyperparameters(rounds=80, epochs=5, batch=50, rate=0.05),
    )
    algorithms: Sequence[tuple[str, ...]] = (
        ("fedavg",),
        ("fedprox", "algorithm.mu=0.1"),
        ("scaffold",),
        ("feddyn", "algorithm.alpha=0.1"),
        ("fednova",),
        ("fedadam", "algorithm.eta=0.01"),
    )
    return Table(
        name="skewed",
        title="Under Dirichlet(0.1): 20 clients of the 10,000 shipped images, C = 0.5, E = 5, B = 50, 2NN, 80 rounds",
        target=0.85,
        seeds=seeds,
        jobs=tuple(
            Job(name=" ".join((name, *more)), overrides=(f"algorithm={name}", *more, *common)) for name, *more in algorithms
        ),
    )


def stragglers(seeds: int) -> Table:
    """Asynchronous against synchronous rounds, by a virtual clock."""
    common = (
        "model=mnist_mlp",
        *clients(20, "strategy: dirichlet, alpha: 0.5, minSize: 10", "builtin://mnist-mini"),
        # Half of the clients are more than twice as fast, or as slow, as the median.
        "job.simulatedTime={compute: 1.0, network: 0.1, spread: 1.0, jitter: 0.2}",
        "job.stop.target=0.90",
    )
    few, many = (hyperparameters(rounds=rounds, epochs=1, batch=20, rate=0.1) for rounds in (100, 500))
    return Table(
        name="stragglers",
        title="With stragglers, in simulated time: 20 clients, Dirichlet(0.5), E = 1, B = 20, 2NN, log-normal speeds (sigma 1)",
        target=0.90,
        by="virtual_seconds",
        seeds=seeds,
        jobs=(
            Job(name="FedAvg, all 20", overrides=(*common, "algorithm=fedavg", *few)),
            Job(
                name="FedAvg, 10 at random",
                overrides=(*common, "algorithm=fedavg", "selector=random", "selector.k=10", *few),
            ),
            Job(
                name="FedBuff, K = 5, all 20 train",
                overrides=(*common, "algorithm=fedbuff", "algorithm.k=5", *many),
            ),
            Job(
                name="FedBuff, K = 5, 10 train",
                overrides=(
                    *common, "algorithm=fedbuff", "algorithm.k=5", "algorithm.concurrency=10", *many
                ),
            ),
        ),
    )  # fmt: skip


def tables(url: str, seeds: int) -> list[Table]:
    """All of them; `url` is that of the full MNIST."""
    return [mcmahan(url), skewed(seeds), stragglers(seeds)]
