"""Power of choice: candidates by size, then by loss."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roles.selectors.choice import PowerOfChoice
from roles.selectors.drawing import draw, generator_of
from tests.selectors.reports import ENDS, begun, gathered, report

LOSS = st.floats(0, 100)


@given(
    st.dictionaries(st.sampled_from(ENDS), st.tuples(LOSS, st.integers(1, 50))),
    st.integers(1, 10),
    st.integers(1, 10),
    st.integers(0, 99),
)
def test_those_of_the_candidates_are_asked_whose_loss_is_highest(
    known: dict[str, tuple[float, int]], one: int, other: int, seed: int
) -> None:
    m, d = sorted((one, other))
    selector = begun(PowerOfChoice(m=m, d=d), seed)
    for end, (loss, samples) in known.items():
        selector.heard(report(end, 1, [loss], samples=samples))
    usual = sum(samples for _, samples in known.values()) / len(known) if known else 1.0
    sizes = [float(known[end][1]) if end in known else usual for end in ENDS]
    candidates = [ENDS[index] for index in draw(sizes, d, generator_of(seed, "selector/choice", 2, ENDS))]
    chosen = set(selector.select(2, ENDS).ends)
    assert len(chosen) == m
    assert chosen <= set(candidates)
    losses = {end: known[end][0] if end in known else float("inf") for end in candidates}
    assert min(losses[end] for end in chosen) >= max([losses[end] for end in candidates if end not in chosen], default=0.0)


def test_with_all_as_candidates_those_never_heard_come_first_then_the_highest_losses() -> None:
    selector = begun(PowerOfChoice(m=3, d=10))
    for index, end in enumerate(ENDS[:9]):
        selector.heard(report(end, 1, [float(index)]))
    assert selector.select(2, ENDS).ends == (ENDS[7], ENDS[8], ENDS[9])


def test_larger_data_is_more_often_a_candidate() -> None:
    selector = begun(PowerOfChoice(m=1, d=1))
    for index, end in enumerate(ENDS):
        selector.heard(report(end, 1, [1.0], samples=30 if index == 0 else 10))
    found = Counter(selector.select(round, ENDS).ends[0] for round in range(2, 4002))
    assert abs(found[ENDS[0]] - 1000) < 110
    assert all(abs(found[end] - 333) < 75 for end in ENDS[1:])


def test_an_update_without_a_usable_loss_leaves_the_last_one_standing() -> None:
    selector = begun(PowerOfChoice(m=1, d=2))
    for end, loss in zip(ENDS[:2], (1.0, 2.0), strict=True):
        selector.heard(report(end, 1, [loss]))
    selector.heard(report(ENDS[0], 2, [float("nan")]))
    assert selector.select(3, ENDS[:2]).ends == (ENDS[1],)


def test_the_state_comes_back() -> None:
    first, second = begun(PowerOfChoice(m=2, d=5)), begun(PowerOfChoice(m=2, d=5))
    for index, end in enumerate(ENDS):
        first.heard(report(end, 1, [float(index % 4)] * (index + 1)))
    first.closed(gathered(), 1)
    second.load_state_dict(first.state_dict())
    assert [first.select(round, ENDS) for round in range(2, 20)] == [second.select(round, ENDS) for round in range(2, 20)]


def test_fewer_candidates_than_are_asked_are_refused() -> None:
    with pytest.raises(ValueError, match=r"selector\.d must be at least selector\.m, 5"):
        PowerOfChoice(m=5, d=3)
