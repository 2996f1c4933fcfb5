"""FedBalancer's formulas."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from roles.samplers.balance import chosen, peak, stepped, threshold_of, trainable

LOSSES = st.lists(st.one_of(st.floats(0, 10), st.just(math.nan)), min_size=1, max_size=40)


@given(st.integers(1, 200), st.integers(1, 20), st.integers(1, 5), st.floats(0.01, 2), st.floats(-1, 500))
def test_what_is_trainable_fits_the_budget_and_a_batch_more_would_not(
    samples: int, batch_size: int, epochs: int, batch_seconds: float, budget: float
) -> None:
    found = trainable(samples, batch_size=batch_size, epochs=epochs, batch_seconds=batch_seconds, budget=budget)
    assert 0 <= found <= samples
    batches = -(-found // batch_size)
    assert batches * epochs * batch_seconds <= max(budget, 0.0) * (1 + 1e-9)
    if found < samples:
        assert (batches + 1) * epochs * batch_seconds >= budget * (1 - 1e-9)


@given(LOSSES, st.floats(0, 10), st.integers(0, 50), st.floats(0, 1), st.integers(0, 99))
def test_samples_are_chosen_as_algorithm_1_says(losses: list[float], threshold: float, capacity: int, p: float, seed: int) -> None:
    found = chosen(np.asarray(losses), threshold, capacity, p, np.random.default_rng(seed))
    over = {index for index, loss in enumerate(losses) if not loss < threshold}
    assert list(found) == sorted(set(found))
    if capacity >= len(losses):
        assert list(found) == list(range(len(losses)))
        return
    count = max(capacity, len(over), 1)
    assert len(found) == count
    easy = sum(index not in over for index in found)
    wanted = int((1 - p) * count + 1e-9)
    assert max(wanted, count - len(over)) == easy or easy == len(losses) - len(over) < wanted


def test_without_time_to_spare_only_those_at_or_above_the_threshold_are_taken() -> None:
    losses = np.array([0.1, 2.0, 0.5, 1.0, np.nan])
    assert chosen(losses, 1.0, 0, 1.0, np.random.default_rng(0)).tolist() == [1, 3, 4]
    assert chosen(losses, 0.0, 0, 1.0, np.random.default_rng(0)).tolist() == [0, 1, 2, 3, 4]
    assert len(chosen(losses[:2], 9.0, 0, 1.0, np.random.default_rng(0))) == 1


def test_a_part_p_comes_from_those_above_the_threshold() -> None:
    losses = np.array([0.0] * 10 + [1.0] * 10)
    found = chosen(losses, 0.5, 0, 0.7, np.random.default_rng(0))
    assert (found < 10).sum() == 3
    assert len(found) == 10


def test_the_same_generator_chooses_the_same() -> None:
    losses = np.random.default_rng(1).random(50)
    first, again, other = (chosen(losses, 0.5, 10, 0.5, np.random.default_rng(seed)).tolist() for seed in (3, 3, 4))
    assert first == again
    assert first != other


@given(st.lists(st.tuples(st.floats(-1, 5), st.floats(0, 10)), min_size=1, max_size=9), st.floats(0, 1))
def test_the_threshold_lies_between_the_least_low_and_the_mean_high(pairs: list[tuple[float, float]], ratio: float) -> None:
    lows, highs = np.array(pairs).T
    expected = lows.min() + (highs.mean() - lows.min()) * ratio
    assert threshold_of(lows.tolist(), highs.tolist(), ratio) == pytest.approx(float(expected), abs=1e-9)


@given(st.lists(st.integers(0, 100), max_size=60), st.integers(1, 8), st.floats(0, 1), st.floats(0, 1))
def test_ratios_step_once_in_w_rounds_by_what_the_windows_gained(benefits: list[int], w: int, ltr: float, ddlr: float) -> None:
    found = stepped([float(value) for value in benefits], w=w, ratios=(ltr, ddlr), steps=(0.05, 0.1))
    if len(benefits) < 2 * w or len(benefits) % w:
        assert found == (ltr, ddlr)
    elif np.mean(benefits[-2 * w : -w]) > np.mean(benefits[-w:]):
        assert found == pytest.approx((min(ltr + 0.05, 1), max(ddlr - 0.1, 0)))
    else:
        assert found == pytest.approx((max(ltr - 0.05, 0), min(ddlr + 0.1, 1)))


@given(st.lists(st.integers(1, 50), min_size=1, max_size=20))
def test_the_peak_is_the_time_of_most_clients_per_second(times: list[int]) -> None:
    best = max(range(1, 51), key=lambda time: (sum(each <= time for each in times) / time, -time))
    found = peak([float(time) for time in times])
    assert sum(each <= found for each in times) / found == pytest.approx(sum(each <= best for each in times) / best)
    assert found in times


def test_a_straggler_is_not_waited_for() -> None:
    assert peak([1.0, 1.1, 1.2, 10.0]) == 1.2
    assert peak([4.0]) == 4.0
