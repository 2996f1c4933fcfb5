"""The cut of one source into many datasets."""

from hashlib import sha256

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from flame_run.data.errors import DataError
from flame_run.data.partition import STRATEGIES, Indices, part_of, partition

LabelArray = NDArray[np.int64]


@st.composite
def cuts(draw: st.DrawFn) -> tuple[LabelArray, dict[str, object]]:
    of = draw(st.integers(1, 12))
    labels = draw(st.lists(st.integers(0, 5), min_size=max(1, of), max_size=200))
    options = {
        "strategy": draw(st.sampled_from(STRATEGIES)),
        "of": of,
        "seed": draw(st.integers(0, 2**63)),
        "alpha": draw(st.floats(0.05, 100)),
        "shards_per_client": draw(st.integers(1, 4)),
        "min_size": 0,
    }
    return np.array(labels, np.int64), options


def balanced(labels: int = 10, each: int = 100) -> LabelArray:
    """Labels in a mixed order, each equally often."""
    return np.tile(np.arange(labels, dtype=np.int64), each)


def sizes(parts: list[Indices]) -> list[int]:
    return [len(part) for part in parts]


@given(cuts())
def test_every_sample_is_in_exactly_one_part(cut: tuple[LabelArray, dict[str, object]]) -> None:
    labels, options = cut
    parts = partition(labels, **options)  # type: ignore[arg-type]
    assert len(parts) == options["of"]
    assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(len(labels)))
    assert all(part.dtype == np.int64 and np.all(np.diff(part) > 0) for part in parts)


@given(cuts())
def test_the_same_seed_gives_the_same_cut(cut: tuple[LabelArray, dict[str, object]]) -> None:
    labels, options = cut
    first, second = (partition(labels, **options) for _ in range(2))  # type: ignore[arg-type]
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


@given(cuts())
def test_a_cut_does_not_touch_the_global_generator(cut: tuple[LabelArray, dict[str, object]]) -> None:
    labels, options = cut
    before = np.random.get_state()[1].tobytes()  # type: ignore[index]  # noqa: NPY002
    partition(labels, **options)  # type: ignore[arg-type]
    assert np.random.get_state()[1].tobytes() == before  # type: ignore[index]  # noqa: NPY002


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_another_seed_gives_another_cut(strategy: str) -> None:
    one, two = (partition(balanced(), strategy=strategy, of=4, seed=seed) for seed in (1, 2))
    assert any(not np.array_equal(a, b) for a, b in zip(one, two, strict=True))


@given(st.integers(1, 50), st.integers(50, 500), st.integers(0, 1000))
def test_iid_sizes_differ_by_at_most_one(of: int, count: int, seed: int) -> None:
    found = sizes(partition(np.zeros(count, np.int64), strategy="iid", of=of, seed=seed))
    assert max(found) - min(found) <= 1


@given(st.sampled_from([2, 5, 10, 20]), st.integers(1, 3), st.integers(0, 1000))
def test_a_part_of_shards_has_few_labels(of: int, shards: int, seed: int) -> None:
    labels = balanced()
    parts = partition(labels, strategy="shards", of=of, seed=seed, shards_per_client=shards)
    width = len(labels) / (of * shards)
    labels_in_a_shard = int(np.ceil(width / 100)) + 1
    assert all(len(np.unique(labels[part])) <= shards * labels_in_a_shard for part in parts)


def test_two_shards_each_of_one_label_give_at_most_two_labels() -> None:
    labels = balanced()
    parts = partition(labels, strategy="shards", of=10, seed=3)
    assert all(len(np.unique(labels[part])) <= 2 for part in parts)
    assert sizes(parts) == [100] * 10


def test_shards_share_the_remainder_out_and_drop_nothing() -> None:
    found = sizes(partition(balanced(each=103), strategy="shards", of=7, seed=0))
    assert sum(found) == 1030
    assert max(found) - min(found) <= 2


def test_dirichlet_with_a_large_alpha_is_nearly_uniform() -> None:
    labels = balanced(each=1000)
    for part in partition(labels, strategy="dirichlet", of=5, seed=0, alpha=1e6):
        assert np.all(np.abs(np.bincount(labels[part], minlength=10) - 200) <= 10)


def test_dirichlet_with_a_small_alpha_gives_most_of_a_part_to_few_labels() -> None:
    labels = balanced(each=1000)
    parts = partition(labels, strategy="dirichlet", of=10, seed=0, alpha=0.05)
    top_two = [np.sort(np.bincount(labels[part]))[-2:].sum() / len(part) for part in parts]
    assert np.mean(top_two) > 0.8


def test_quantity_keeps_the_mix_of_labels_and_varies_the_size() -> None:
    labels = balanced(each=1000)
    parts = partition(labels, strategy="quantity", of=5, seed=1, alpha=1.0, min_size=500)
    assert max(sizes(parts)) > 2 * min(sizes(parts))
    for part in parts:
        assert np.all(np.abs(np.bincount(labels[part], minlength=10) / len(part) - 0.1) < 0.05)


@pytest.mark.parametrize("strategy", ["dirichlet", "quantity"])
def test_drawn_sizes_reach_the_minimum(strategy: str) -> None:
    parts = partition(balanced(each=200), strategy=strategy, of=10, seed=0, alpha=0.5, min_size=40)
    assert min(sizes(parts)) >= 40


def test_a_hundred_parts_of_the_shipped_size_are_found() -> None:
    assert len(partition(balanced(each=1000), strategy="dirichlet", of=100, seed=0, alpha=0.1)) == 100


def test_a_minimum_that_is_never_drawn_ends_with_an_error_that_says_so() -> None:
    with pytest.raises(DataError, match=r"minSize = 95: not met in 1000 draws of 10 parts of 1000 samples with alpha 0.1"):
        partition(balanced(), strategy="dirichlet", of=10, seed=0, alpha=0.1, min_size=95)


def test_shards_that_are_too_small_end_with_an_error_that_says_so() -> None:
    with pytest.raises(DataError, match="shards leaves a part with 9 of 20 samples"):
        partition(np.zeros(20, np.int64), strategy="shards", of=2, seed=1, shards_per_client=8, min_size=10)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"strategy": "fair"}, "strategy = 'fair'.*legal: iid, quantity, shards, dirichlet"),
        ({"of": 0}, "of = 0"),
        ({"of": 11}, "11 parts of 10 samples"),
        ({"seed": -1}, "seed = -1"),
        ({"alpha": 0.0}, "alpha = 0.0"),
        ({"alpha": float("inf")}, "alpha = inf"),
        ({"shards_per_client": 0}, "shardsPerClient = 0"),
        ({"min_size": -1}, "minSize = -1"),
    ],
)
def test_an_argument_out_of_range_is_named(options: dict[str, object], text: str) -> None:
    with pytest.raises(DataError, match=text):
        partition(np.arange(10), **{"strategy": "iid", "of": 2, "seed": 0, **options})  # type: ignore[arg-type]


@pytest.mark.parametrize("labels", [np.zeros((3, 2), np.int64), np.zeros(3), np.array(["a", "b"])])
def test_labels_that_are_not_integers_are_refused(labels: NDArray[np.generic]) -> None:
    with pytest.raises(DataError, match="one integer label per sample"):
        partition(labels, strategy="iid", of=1, seed=0)


def test_an_entry_of_a_dataset_names_one_part() -> None:
    labels = balanced()
    entry = {"strategy": "shards", "index": 2, "of": 5, "shardsPerClient": 1, "minSize": 10, "alpha": 1.0}
    expected = partition(labels, strategy="shards", of=5, seed=9, shards_per_client=1)[2]
    assert np.array_equal(part_of(labels, entry, 9), expected)


def test_the_seed_of_an_entry_wins_over_the_seed_of_the_job() -> None:
    entry = {"strategy": "iid", "index": 0, "of": 2}
    assert np.array_equal(part_of(balanced(), {**entry, "seed": 5}, 1), part_of(balanced(), entry, 5))


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"index": 2}, "index = 2: there is no such part among 2"),
        ({"index": -1}, "index = -1"),
        ({"shards": 2}, "unknown key 'shards'"),
    ],
)
def test_an_entry_that_makes_no_sense_is_refused(change: dict[str, object], text: str) -> None:
    with pytest.raises(DataError, match=text):
        part_of(balanced(), {"strategy": "iid", "index": 0, "of": 2, **change}, 0)


def test_an_entry_without_a_strategy_is_refused() -> None:
    with pytest.raises(DataError, match="it lacks 'strategy'"):
        part_of(balanced(), {"index": 0, "of": 2}, 0)


@pytest.mark.parametrize(
    ("strategy", "digest"),
    [
        ("iid", "c66414b2ac820722"),
        ("shards", "defd5c36017e8218"),
        ("dirichlet", "b1e45db83e4d6424"),
        ("quantity", "85819078452764a7"),
    ],
)
def test_the_cut_is_the_same_on_every_machine(strategy: str, digest: str) -> None:
    """Sites cut for themselves: a NumPy that draws other numbers must be noticed."""
    parts = partition(balanced(), strategy=strategy, of=4, seed=7)
    text = ";".join(",".join(map(str, part.tolist())) for part in parts)
    assert sha256(text.encode()).hexdigest()[:16] == digest
