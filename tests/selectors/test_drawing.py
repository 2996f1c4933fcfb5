"""Drawing ends: how many, and with what chances."""

import math
from collections import Counter
from fractions import Fraction
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from roles.selectors.drawing import checked_share, draw, generator_of, share_of


@given(st.integers(1, 1000), st.integers(1, 1000))
def test_a_number_asks_for_so_many_ends_but_no_more_than_there_are(share: int, ends: int) -> None:
    assert share_of(checked_share("k", share), ends) == min(share, ends)


@given(st.integers(1, 100), st.integers(1, 1000))
def test_a_fraction_asks_for_max_of_c_times_k_and_1(percent: int, ends: int) -> None:
    share = float(f"{percent / 100:.2f}")
    assert share_of(checked_share("k", share), ends) == max(percent * ends // 100, 1)


@pytest.mark.parametrize("share", [0, -1, 0.0, 1.5, -0.1, True, "3", None, math.nan])
def test_anything_else_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match=r"^selector\.k must be a number of ends"):
        checked_share("selector.k", share)


def successive(weights: list[float], order: tuple[int, ...]) -> Fraction:
    """The chance of drawing `order`, one after the other without putting back."""
    left, chance = {index: Fraction(weight) for index, weight in enumerate(weights)}, Fraction(1)
    for index in order:
        chance *= left[index] / sum(left.values())
        del left[index]
    return chance


def test_chances_are_those_of_drawing_one_after_the_other_by_weight() -> None:
    weights, tries, generator = [1.0, 2.0, 5.0], 6000, np.random.default_rng(7)
    found = Counter(tuple(draw(weights, 2, generator)) for _ in range(tries))
    for order in permutations(range(3), 2):
        expected = float(successive(weights, order))
        assert abs(found[order] / tries - expected) < 4 * math.sqrt(expected * (1 - expected) / tries)


@given(st.lists(st.one_of(st.just(0.0), st.floats(1e-300, 1e300)), min_size=1, max_size=20), st.data())
def test_different_indices_are_drawn_and_weight_0_comes_last(weights: list[float], data: st.DataObject) -> None:
    count = data.draw(st.integers(0, len(weights)))
    drawn = draw(weights, count, np.random.default_rng(data.draw(st.integers(0, 2**32))))
    assert len(drawn) == len(set(drawn)) == count
    positive = sum(weight > 0 for weight in weights)
    assert all(weights[index] > 0 for index in drawn[:positive])


def test_among_weights_of_0_each_is_as_likely_as_the_other() -> None:
    generator = np.random.default_rng(1)
    found = Counter(draw([0.0, 0.0, 0.0, 1.0], 2, generator)[1] for _ in range(3000))
    assert all(abs(found[index] - 1000) < 120 for index in range(3))


def test_a_choice_has_a_generator_of_its_own_by_seed_purpose_round_and_ends() -> None:
    keys = [(0, "a", 1, "xy"), (1, "a", 1, "xy"), (0, "b", 1, "xy"), (0, "a", 2, "xy"), (0, "a", 1, "xz"), (0, "a", 1, "xy")]
    values = [generator_of(seed, what, round, list(ends)).random() for seed, what, round, ends in keys]
    assert values[0] == values[-1]
    assert len(set(values)) == 5
