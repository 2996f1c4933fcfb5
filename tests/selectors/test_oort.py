"""Oort's choices over rounds."""

import io
from collections import Counter
from typing import Any

import pytest
import torch

from roles.selectors.oort import Oort
from roles.selectors.selector import EmptySelection
from tests.selectors.reports import ENDS, begun, gathered, play, report

MANY = tuple(f"trainer-{index}" for index in range(100))
ALIKE = dict.fromkeys(MANY, 1.0)


def heard_once(selector: Oort, losses: dict[str, float], seconds: dict[str, float] | None = None) -> Oort:
    """A selector that has heard of everybody in round 1."""
    begun(selector)
    for end, loss in losses.items():
        selector.heard(report(end, 1, [loss] * 2, seconds=1.0 if seconds is None else seconds[end]))
    selector.closed(gathered(), 1)
    return selector


def test_more_ends_are_asked_than_are_needed() -> None:
    chosen = begun(Oort(k=10)).select(1, MANY)
    assert len(chosen.ends) == 13
    assert chosen.needed == 10
    assert list(chosen.ends) == sorted(chosen.ends, key=MANY.index)


def test_with_few_ends_all_are_asked() -> None:
    chosen = begun(Oort(k=9)).select(1, ENDS)
    assert len(chosen.ends) == 10
    assert chosen.needed == 9
    assert begun(Oort(k=50)).select(1, ENDS).needed == 10


def test_a_fraction_of_the_ends_will_do_too() -> None:
    chosen = begun(Oort(k=0.2)).select(1, MANY)
    assert len(chosen.ends) == 26
    assert chosen.needed == 20


def test_exploration_falls_by_its_decay_to_its_floor() -> None:
    selector = Oort()
    assert [selector.exploration(round) for round in (1, 2, 3)] == pytest.approx([0.9, 0.9 * 0.98, 0.9 * 0.98**2])
    assert selector.exploration(75) == pytest.approx(0.9 * 0.98**74)
    assert selector.exploration(76) == selector.exploration(500) == 0.2


def test_of_those_asked_a_share_is_new_while_there_are_new_ones() -> None:
    selector = begun(Oort(k=10, overcommitment=1))
    known: set[str] = set()
    for round in range(1, 8):
        chosen = set(play(selector, round, MANY, ALIKE, ALIKE))
        new = chosen - known
        share = selector.exploration(round)
        exploited = min(int((1 - share) * 10), len(known))
        assert len(chosen) == 10
        assert len(new) == 10 - exploited
        known |= chosen


def test_once_all_are_known_the_utilities_alone_decide() -> None:
    losses = {end: 10.0 if index < 20 else 1.0 for index, end in enumerate(MANY)}
    selector = heard_once(Oort(k=10, clip_bound=1.0), losses)
    for round in range(2, 30):
        assert set(selector.select(round, MANY).ends) <= set(MANY[:20])


def test_those_who_are_admitted_are_drawn_in_proportion_to_their_utility() -> None:
    ends = ENDS[:2]
    selector = heard_once(Oort(k=1, overcommitment=1, cut_off_util=0.1, clip_bound=1.0), {ends[0]: 300.0, ends[1]: 100.0})
    found = Counter(selector.select(round, ends).ends[0] for round in range(2, 4002))
    assert abs(found[ends[0]] - 3000) < 115


def test_a_slow_client_is_avoided_until_the_pacer_gives_way() -> None:
    losses = {end: 2.0 if end == ENDS[0] else 1.0 for end in ENDS}
    seconds = {end: 10.0 if end == ENDS[0] else 1.0 for end in ENDS}
    strict = heard_once(Oort(k=1, overcommitment=1, clip_bound=1.0), losses, seconds)
    assert all(ENDS[0] not in strict.select(round, ENDS).ends for round in range(2, 20))
    patient = heard_once(Oort(k=1, overcommitment=1, clip_bound=1.0, round_threshold=100), losses, seconds)
    assert all(patient.select(round, ENDS).ends == (ENDS[0],) for round in range(2, 20))


@pytest.mark.parametrize(("unit", "first", "second"), [("percentile", 1.3, 1.35), ("seconds", 0.5, 1.0)])
def test_the_pacer_relaxes_the_preferred_duration_when_less_is_achieved(unit: Any, first: float, second: float) -> None:
    ends = ENDS[:2]
    delta = 5.0 if unit == "percentile" else 0.5
    selector = begun(Oort(k=2, pacer_unit=unit, pacer_step=2, pacer_delta=delta))
    seconds = {ends[0]: 1.0, ends[1]: 2.0}
    for round, loss in enumerate([4.0, 4.0, 2.0, 2.0, 3.0, 3.0], start=1):
        play(selector, round, ends, dict.fromkeys(ends, loss), seconds)
        if round < 4:
            assert selector.preferred(round + 1) == pytest.approx(first)
        else:
            assert selector.preferred(round + 1) == pytest.approx(second)


def test_a_client_that_does_not_deliver_counts_as_slower_than_all_who_did() -> None:
    selector = begun(Oort(k=2, overcommitment=1.5, round_threshold=50))
    ends = ENDS[:3]
    assert selector.select(1, ends).ends == ends
    selector.heard(report(ends[0], 1, [1.0], seconds=1.0))
    selector.heard(report(ends[1], 1, [1.0], seconds=4.0))
    selector.missed(ends[2], 1, "no update within 0 s of the quorum")
    selector.closed(gathered(), 1)
    assert selector.state_dict()["seconds"] == {ends[0]: 1.0, ends[1]: 4.0, ends[2]: 4.0}
    assert ends[2] not in selector.state_dict()["utility"]


def test_new_clients_that_never_deliver_are_tried_less_often() -> None:
    selector = heard_once(Oort(k=1, overcommitment=1, exploration_factor=1.0, exploration_min=1.0), {ENDS[0]: 1.0})
    for round in (2, 3):
        selector.select(round, ENDS)
        selector.heard(report(ENDS[0], round, [1.0], seconds=1.0 if round == 2 else 4.0))
        selector.missed(ENDS[1], round, "late")
        selector.closed(gathered(), round)
    selector.heard(report(ENDS[0], 4, [1.0], seconds=1.0))
    selector.closed(gathered(), 4)
    found = Counter(selector.select(round, ENDS[:3]).ends[0] for round in range(5, 2005))
    assert found[ENDS[0]] == 0
    assert abs(found[ENDS[1]] - 400) < 75  # a quarter as fast as one of which nothing is known


def test_a_used_client_is_left_out_where_that_is_wanted_but_never_too_many() -> None:
    selector = begun(Oort(k=10, overcommitment=1, blacklist_rounds=2, blacklist_max_len=0.3))
    for round in range(1, 4):
        for end in ENDS[:4]:
            selector.heard(report(end, round, [1.0]))
        selector.closed(gathered(), round)
    chosen = selector.select(4, ENDS)
    assert len(chosen.ends) == 7
    assert chosen.needed == 7
    assert set(ENDS[4:]) <= set(chosen.ends)


def test_what_an_end_says_that_is_no_number_does_not_count() -> None:
    selector = begun(Oort(k=2))
    for bad in (float("nan"), float("inf")):
        selector.heard(report(ENDS[0], 1, [bad]))
    selector.closed(gathered(), 1)
    assert selector.state_dict()["utility"] == {}
    assert len(selector.select(2, ENDS[:2]).ends) == 2


def test_a_loss_of_0_everywhere_is_no_reason_to_fail() -> None:
    selector = heard_once(Oort(k=4), dict.fromkeys(ENDS, 0.0))
    assert len(selector.select(1, ENDS).ends) == 6
    assert len(selector.select(2, ENDS).ends) == 6


def test_a_round_that_is_done_again_takes_the_same() -> None:
    selector = heard_once(Oort(k=3), {end: float(index) for index, end in enumerate(MANY)})
    first = selector.select(2, MANY)
    selector.heard(report(first.ends[0], 2, [1e6]))
    selector.missed(first.ends[1], 2, "lost")
    assert selector.select(2, MANY) == first


def test_the_state_comes_back_through_a_file() -> None:
    losses = {end: float(index) for index, end in enumerate(MANY)}
    first, second = begun(Oort(k=5, pacer_step=2)), begun(Oort(k=5, pacer_step=2))
    for round in range(1, 12):
        play(first, round, MANY, losses, ALIKE)
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    second.load_state_dict(torch.load(file, weights_only=True))
    for round in range(12, 24):
        assert play(first, round, MANY, losses, ALIKE) == play(second, round, MANY, losses, ALIKE)
    assert first.state_dict() == second.state_dict()
    assert first.metrics() == second.metrics()


def test_scaled_utilities_let_curiosity_weigh_more() -> None:
    ends, found = ENDS[:3], []
    for normalize in (False, True):
        selector = begun(Oort(k=1, overcommitment=1, clip_bound=1.0, round_threshold=100, normalize=normalize))
        for round, losses in ((1, (1.0, 600.0, 1000.0)), (50, (1.0, None, 1000.0))):
            for end, loss in zip(ends, losses, strict=True):
                if loss is not None:
                    selector.heard(report(end, round, [loss]))
            selector.closed(gathered(), round)
        found.append({selector.select(round, ends).ends[0] for round in range(51, 80)})
    assert found == [{ends[2]}, {ends[1]}]


def test_nobody_to_choose_from_is_an_error_that_names_the_round() -> None:
    with pytest.raises(EmptySelection, match="round 7"):
        begun(Oort()).select(7, ())


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("k", 0), ("overcommitment", 0.9), ("exploration_factor", 1.1), ("exploration_decay", 0.0), ("exploration_min", 0.95),
        ("alpha", -1.0), ("cut_off_util", 1.1), ("clip_bound", 0.0), ("pacer_unit", "hours"), ("pacer_step", 0),
        ("pacer_delta", 0.0), ("round_threshold", 101.0), ("blacklist_rounds", 0), ("blacklist_max_len", 2.0),
    ],
)  # fmt: skip
def test_a_value_out_of_range_is_refused_by_its_name(key: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"^selector\.{key} must be"):
        Oort(**{key: value})
