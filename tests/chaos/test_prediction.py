"""The prediction of a model is tested by itself, too."""

from tests.chaos.prediction import TOLERANCE, distance, members, predict, sizes
from tests.chaos.shapes import shape


def test_the_samples_of_a_round_tell_who_took_part() -> None:
    here = shape("two_tier")
    everyone, left = frozenset(here.cuts), frozenset({"trainer-0"})
    each = sizes(here)["trainer-0"]
    assert members(sum(sizes(here).values()), everyone, left, here) == everyone
    assert members(each, everyone, left, here) == left
    assert members(each + 1, everyone, left, here) is None


def test_a_trainer_less_in_one_round_makes_a_difference_that_is_seen() -> None:
    here = shape("two_tier")
    everyone, left = frozenset(here.cuts), frozenset({"trainer-0"})
    whole = predict([everyone, everyone], here)
    assert distance(whole, predict([everyone, everyone], here)) == 0
    assert distance(whole, predict([everyone, left], here)) > 20 * TOLERANCE
    assert distance(predict([everyone, left], here), predict([left, everyone], here)) > 20 * TOLERANCE
