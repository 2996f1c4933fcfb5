"""Cutting one source into many datasets. NumPy only, a pure function of labels and seed.

Every strategy gives each sample to exactly one part. Workers at different sites cut for themselves, so all of them must come
to the same result: randomness is one PCG64 stream from a `SeedSequence`, never a global generator.

Semantics follow flwr-datasets (`IidPartitioner`, `ShardPartitioner`, `DirichletPartitioner`, `SizePartitioner`), with two
differences: shards drop no sample, and Dirichlet does not rebalance the sizes of the parts.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from flame_run.data.errors import DataError

Indices = NDArray[np.int64]
LABEL_STRATEGIES = ("shards", "dirichlet")
"""Strategies that look at labels; the others only need to know how many samples there are."""
STRATEGIES = ("iid", "quantity", *LABEL_STRATEGIES)
MAX_TRIES = 1000
"""Draws of proportions before a minimum size is given up."""


def partition(
    labels: ArrayLike,
    *,
    strategy: str,
    of: int,
    seed: int,
    alpha: float = 0.5,
    shards_per_client: int = 2,
    min_size: int = 1,
) -> list[Indices]:
    """Cut the samples with these labels into `of` parts.

    Strategies:
        iid: a random part of the samples each; sizes differ by at most one.
        shards: the samples sorted by label, cut into `of * shards_per_client` runs of equal length (give or take one),
            dealt out at random (McMahan et al. 2017, "Communication-Efficient Learning of Deep Networks").
        dirichlet: the samples of each label shared out in proportions drawn from Dirichlet(alpha) (Yurochkin et al. 2019;
            Li et al. 2022, "Federated Learning on Non-IID Data Silos"). Small alpha: few labels per part; large: uniform.
        quantity: a random part of the samples each, of sizes drawn from Dirichlet(alpha).

    Args:
        labels: Integer array of shape (N,): the label of each sample.
        strategy: One of `STRATEGIES`.
        of: Number of parts, at least 1.
        seed: Not negative; the same seed gives the same cut.
        alpha: Concentration for dirichlet and quantity, above 0.
        shards_per_client: Runs per part for shards, at least 1.
        min_size: Smallest number of samples in a part. Dirichlet and quantity draw anew until it holds.

    Returns:
        One sorted int64 array of sample indices for each part: disjoint, and together all of 0 .. N-1.

    Raises:
        DataError: An argument is out of its range, or no cut with `min_size` was found in `MAX_TRIES` draws.

    """
    marks = _checked_labels(labels)
    _check_arguments(len(marks), strategy=strategy, of=of, seed=seed, alpha=alpha, shards=shards_per_client, min_size=min_size)
    random = np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed)))
    if strategy == "iid":
        parts = np.array_split(random.permutation(len(marks)), of)
    elif strategy == "shards":
        parts = _shards(marks, of, shards_per_client, random)
    else:
        groups = (
            [np.flatnonzero(marks == mark) for mark in np.unique(marks)] if strategy == "dirichlet" else [np.arange(len(marks))]
        )
        parts = _by_proportions(groups, of, alpha, min_size, random)
    smallest = min(len(part) for part in parts)
    if smallest < min_size:
        raise DataError(
            "partition.minSize", min_size, f"{strategy} leaves a part with {smallest} of {len(marks)} samples", "legal: a lower one"
        )
    return [np.sort(part).astype(np.int64) for part in parts]


def part_of(labels: ArrayLike, entry: Mapping[str, Any], seed: int) -> Indices:
    """Return the indices of the one part that the `partition` entry of a dataset describes.

    Args:
        labels: Integer array of shape (N,).
        entry: `{strategy, index, of}` and optionally `alpha`, `shardsPerClient`, `minSize`, `seed`.
        seed: Used where the entry has none. All parts of one source need the same one.

    Raises:
        DataError: A key is missing, unknown or out of range; as for `partition`.

    """
    options = {"alpha": "alpha", "shardsPerClient": "shards_per_client", "minSize": "min_size"}
    legal = ("strategy", "index", "of", "seed", *options)
    missing = [key for key in ("strategy", "index", "of") if key not in entry]
    unknown = [key for key in entry if key not in legal]
    if missing or unknown:
        reason = f"it lacks {missing[0]!r}" if missing else f"unknown key {unknown[0]!r}"
        raise DataError("partition", dict(entry), reason, f"legal: {', '.join(legal)}")
    index, of = entry["index"], entry["of"]
    if not isinstance(index, int) or not isinstance(of, int) or not 0 <= index < of:
        raise DataError("partition.index", index, f"there is no such part among {of}", "legal: 0 to of - 1")
    chosen = {name: entry[key] for key, name in options.items() if key in entry}
    return partition(labels, strategy=entry["strategy"], of=of, seed=entry.get("seed", seed), **chosen)[index]


def _checked_labels(labels: ArrayLike) -> NDArray[Any]:
    marks = np.asarray(labels)
    if marks.ndim != 1 or marks.dtype.kind not in "iub":
        raise DataError(
            "labels", f"{marks.dtype} of shape {marks.shape}", "a cut needs one integer label per sample", "legal: shape (N,)"
        )
    return marks


def _check_arguments(count: int, *, strategy: str, of: int, seed: int, alpha: float, shards: int, min_size: int) -> None:
    if strategy not in STRATEGIES:
        raise DataError("partition.strategy", strategy, "no such strategy", f"legal: {', '.join(STRATEGIES)}")
    if of < 1:
        raise DataError("partition.of", of, "there must be a part", "legal: 1 or more")
    if seed < 0:
        raise DataError("partition.seed", seed, "negative", "legal: 0 or more")
    if not (alpha > 0 and np.isfinite(alpha)):
        raise DataError("partition.alpha", alpha, "not a concentration", "legal: above 0")
    if shards < 1:
        raise DataError("partition.shardsPerClient", shards, "a part needs a shard", "legal: 1 or more")
    if min_size < 0 or min_size * of > count:
        raise DataError(
            "partition.minSize", min_size, f"{of} parts of {count} samples cannot all have so many", f"legal: 0 to {count // of}"
        )


def _shards(marks: NDArray[Any], of: int, shards_per_client: int, random: np.random.Generator) -> list[NDArray[Any]]:
    # Shuffled first, so that which samples of a label meet in a shard does not follow the order of the file.
    shuffled = random.permutation(len(marks))
    by_label = shuffled[np.argsort(marks[shuffled], kind="stable")]
    shards = np.array_split(by_label, of * shards_per_client)
    dealt = random.permutation(len(shards)).reshape(of, shards_per_client)
    return [np.concatenate([shards[shard] for shard in hand]) for hand in dealt]


def _by_proportions(
    groups: list[NDArray[Any]], of: int, alpha: float, min_size: int, random: np.random.Generator
) -> list[NDArray[Any]]:
    """Share each group of samples out in proportions of its own, drawn anew until each part has `min_size` samples."""
    sizes = np.array([len(group) for group in groups])
    for _ in range(MAX_TRIES):
        shares = random.dirichlet(np.full(of, alpha), size=len(groups))
        # Rounded as running sums, so that a group's counts add up to its size; the last is exact.
        ends = np.rint(np.cumsum(shares, axis=1) * sizes[:, None]).astype(np.int64)
        ends[:, -1] = sizes
        if np.all(np.diff(ends, prepend=0, axis=1).sum(axis=0) >= min_size):
            break
    else:
        reason = f"not met in {MAX_TRIES} draws of {of} parts of {int(sizes.sum())} samples with alpha {alpha}"
        raise DataError("partition.minSize", min_size, reason, "legal: a lower minSize, a higher alpha, or fewer parts")
    pieces = [np.split(random.permutation(group), end[:-1]) for group, end in zip(groups, ends, strict=True)]
    return [np.concatenate(piece) for piece in zip(*pieces, strict=True)]
