"""Oort's formulas against NumPy."""

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from roles.selectors.report import statistical_utility
from roles.selectors.utility import admitted, client_utility, clipped, normalized, preferred_seconds, relaxations
from tests.selectors.reports import report

UTILITIES = st.dictionaries(st.text(min_size=1, max_size=3), st.floats(0, 1e6), min_size=1, max_size=30)


@given(st.lists(st.floats(0, 1e3), min_size=1, max_size=50))
def test_the_statistical_utility_is_n_times_the_root_mean_square_of_the_losses(losses: list[float]) -> None:
    values = np.asarray(losses)
    assert statistical_utility(report("a", 1, losses)) == pytest.approx(len(values) * np.sqrt(np.mean(values**2)), rel=1e-9)


@given(UTILITIES)
def test_clipping_lowers_what_is_above_the_quantile_and_nothing_else(utilities: dict[str, float]) -> None:
    bound = np.percentile(list(utilities.values()), 95)
    assert clipped(utilities, 0.95) == pytest.approx({end: min(value, bound) for end, value in utilities.items()})


def test_clipping_has_an_effect_on_an_outlier() -> None:
    assert clipped({**{str(index): 1.0 for index in range(99)}, "liar": 1e9}, 0.95)["liar"] == 1.0


@given(UTILITIES)
def test_normalized_utilities_keep_their_order_and_fill_0_to_1(utilities: dict[str, float]) -> None:
    scaled = normalized(utilities)
    assert max(scaled.values()) == 1.0
    assert len(set(utilities.values())) == 1 or min(scaled.values()) == 0.0
    ranked = sorted(utilities, key=lambda end: utilities[end])
    assert all(scaled[one] <= scaled[other] for one, other in pairwise(ranked))


@given(st.floats(0, 1e3), st.integers(1, 500), st.data(), st.floats(0, 4))
def test_utility_is_loss_plus_curiosity_times_speed(statistical: float, round: int, data: st.DataObject, alpha: float) -> None:
    last = data.draw(st.integers(1, round))
    seconds, preferred = data.draw(st.floats(0.01, 100)), data.draw(st.floats(0.01, 100))
    expected = statistical + np.sqrt(0.1 * np.log(round) / last)
    expected *= np.power(preferred / seconds, alpha) if preferred < seconds else 1.0
    found = client_utility(statistical, round=round, last=last, seconds=seconds, preferred=preferred, alpha=alpha)
    assert found == pytest.approx(float(expected), rel=1e-9)


@given(UTILITIES, st.data(), st.floats(0, 1))
def test_those_are_admitted_who_have_a_share_of_the_utility_of_the_last_one_that_fits(
    utilities: dict[str, float], data: st.DataObject, share: float
) -> None:
    count = data.draw(st.integers(1, len(utilities)))
    found = admitted(utilities, count, share)
    bound = share * np.sort(list(utilities.values()))[::-1][count - 1]
    assert set(found) == {end for end, value in utilities.items() if value >= bound}
    assert len(found) >= count
    assert [utilities[end] for end in found] == sorted((utilities[end] for end in found), reverse=True)


def test_the_cut_off_is_taken_from_the_best_downwards() -> None:
    utilities = {"a": 1.0, "b": 100.0, "c": 97.0, "d": 90.0}
    assert admitted(utilities, 1, 0.95) == ["b", "c"]
    assert admitted(utilities, 2, 0.92) == ["b", "c", "d"]
    assert admitted(utilities, 0, 0.95) == []


@given(st.lists(st.integers(0, 1000), max_size=40), st.integers(1, 6))
def test_the_pacer_relaxes_after_each_window_that_achieved_less_than_the_one_before(achieved: list[int], step: int) -> None:
    expected = 0
    for end in range(2 * step, len(achieved) + 1, step):
        expected += sum(achieved[end - 2 * step : end - step]) > sum(achieved[end - step : end])
    history = {round: float(value) for round, value in enumerate(achieved, start=1)}
    assert relaxations(history, len(achieved) + 1, step) == expected


def test_the_preferred_duration_is_a_percentile_and_without_bound_at_100() -> None:
    durations = [1.0, 2.0, 3.0, 10.0]
    assert preferred_seconds(durations, 30) == pytest.approx(float(np.percentile(durations, 30)))
    assert preferred_seconds(durations, 100) == math.inf
    assert preferred_seconds([], 30) == math.inf
