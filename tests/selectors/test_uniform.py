"""Selection by chance."""

from collections import Counter

import pytest

from roles.selectors.uniform import Random
from tests.selectors.reports import ENDS, begun


def test_so_many_ends_are_asked_in_the_order_of_the_plan() -> None:
    selector = begun(Random(k=4))
    for round in range(1, 20):
        chosen = selector.select(round, ENDS)
        assert len(chosen.ends) == 4
        assert list(chosen.ends) == sorted(chosen.ends, key=ENDS.index)
        assert chosen.needed is None


def test_a_tenth_of_ten_ends_is_one_and_of_three_too() -> None:
    selector = begun(Random())
    assert len(selector.select(1, ENDS).ends) == len(selector.select(1, ENDS[:3]).ends) == 1


def test_the_choice_depends_on_seed_and_round_only() -> None:
    first, again, other = (begun(Random(k=5), seed) for seed in (3, 3, 4))
    rounds = range(1, 30)
    assert [first.select(round, ENDS) for round in rounds] == [again.select(round, ENDS) for round in reversed(rounds)][::-1]
    assert [first.select(round, ENDS) for round in rounds] != [other.select(round, ENDS) for round in rounds]


def test_every_end_is_as_likely_as_the_other() -> None:
    selector = begun(Random(k=0.3))
    found = Counter(end for round in range(1, 2001) for end in selector.select(round, ENDS).ends)
    assert all(abs(found[end] - 600) < 85 for end in ENDS)  # 4 standard deviations


@pytest.mark.parametrize("k", [0, 0.0, 2.5, -3])
def test_a_k_that_asks_nobody_is_refused(k: float) -> None:
    with pytest.raises(ValueError, match=r"selector\.k"):
        Random(k=k)
