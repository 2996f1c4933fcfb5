"""Rounds that fold updates as they come, that close after a time, and those of a virtual clock."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roles.rounds.collect import Close, Collect, Fold, Short, Wait

ENDS = ("a", "b", "c", "d")


def drain(collect: Collect, now: float = 0.0) -> object:
    while isinstance(step := collect.next(now), Fold):
        collect.done(step.end)
    return step


def test_an_eager_round_folds_updates_as_they_come() -> None:
    collect = Collect(ENDS, needed=4, eager=True)
    for at, end in enumerate(("d", "b", "c")):
        collect.offered(end, float(at))
        assert isinstance(drain(collect), Wait)
    collect.offered("a", 9.0)
    assert drain(collect) == Close({})
    assert collect.folded == ["d", "b", "c", "a"]


def test_what_waits_in_an_eager_round_is_folded_in_the_order_of_arrival() -> None:
    collect = Collect(ENDS, needed=4, eager=True)
    for end, at in (("a", 3.0), ("c", 1.0), ("b", 3.0)):
        collect.offered(end, at)
    assert collect.upcoming(2) == ["c", "a"]
    assert collect.upcoming(9) == ["c", "a", "b"]


def test_an_eager_sum_that_was_spoilt_is_made_anew_in_the_same_order() -> None:
    collect = Collect(ENDS, needed=2, eager=True)
    for end, at in (("d", 1.0), ("a", 2.0)):
        collect.offered(end, at)
    assert collect.next(2.0) == Fold("d")
    collect.done("d")
    collect.lost("a", "bad", "refused")
    collect.begin_anew()
    collect.offered("b", 3.0)
    assert collect.next(3.0) == Fold("d")


def test_a_limit_closes_the_round_with_what_has_come() -> None:
    collect = Collect(ENDS, needed=1, limit=5.0, begun=100.0)
    collect.offered("b", 101.0)
    assert drain(collect, 104.9) == Wait(105.0, ("a", "c", "d"))
    assert collect.patience == 5.0
    late = "no update within 5 s of the start of the round"
    assert drain(collect, 105.0) == Close({"a": late, "c": late, "d": late})
    assert collect.dropped


def test_a_limit_waits_for_the_quorum() -> None:
    collect = Collect(ENDS, needed=1, limit=5.0, begun=100.0)
    assert collect.next(200.0) == Wait(None, ENDS)
    collect.offered("c", 201.0)
    assert isinstance(collect.next(201.0), Wait | Fold)
    late = "no update within 0 s of the quorum"
    assert drain(collect, 201.0) == Close({"a": late, "b": late, "d": late})


def test_the_deadline_of_the_quorum_may_come_before_the_limit() -> None:
    collect = Collect(ENDS, needed=1, deadline=2.0, limit=50.0, begun=100.0)
    collect.offered("a", 110.0)
    assert drain(collect, 110.0) == Wait(112.0, ("b", "c", "d"))
    assert collect.patience == 2.0
    drain(collect, 112.0)
    assert set(collect.missing.values()) == {"no update within 2 s of the quorum"}


def test_by_a_virtual_clock_nothing_is_decided_before_everybody_has_offered() -> None:
    collect = Collect(ENDS, needed=2, deadline=1.0, virtual=True)
    for end, at in (("d", 1.0), ("c", 9.0), ("b", 2.5)):
        collect.offered(end, at)
        assert isinstance(collect.next(1e9), Wait)
    collect.offered("a", 4.0)
    late = "no update within 1 s of the quorum"
    assert drain(collect) == Close({"a": late, "c": late})
    assert collect.folded == ["b", "d"], "in the order of the plan"
    assert collect.closes_at == 3.5
    assert collect.patience is None, "transfers take real time"


def test_by_a_virtual_clock_who_is_away_may_have_been_the_first() -> None:
    collect = Collect(ENDS, needed=2, deadline=0.0, virtual=True, rejoin_timeout=10.0)
    for end, at in (("d", 3.0), ("c", 4.0), ("b", 5.0)):
        collect.offered(end, at)
    collect.away("a", "broken pipe", 100.0)
    assert collect.next(101.0) == Wait(110.0, ("a",))
    assert collect.back("a")
    collect.offered("a", 1.0)
    drain(collect)
    assert collect.folded == ["a", "d"]


def test_by_a_virtual_clock_who_does_not_come_back_is_lost() -> None:
    collect = Collect(ENDS, needed=2, deadline=0.0, virtual=True, rejoin_timeout=10.0)
    for end, at in (("d", 3.0), ("c", 4.0), ("b", 5.0)):
        collect.offered(end, at)
    collect.away("a", "broken pipe", 100.0)
    assert isinstance(drain(collect, 110.0), Close)
    assert collect.folded == ["c", "d"]


def test_by_a_virtual_clock_a_round_that_lacks_ends_falls_short() -> None:
    collect = Collect(ENDS, needed=4, virtual=True)
    collect.offered("a", 1.0)
    collect.lost("b", "killed")
    assert collect.next(0.0) == Short("3 of 4 ends can deliver, 4 are needed (b: killed)", lost=True)


@given(
    times=st.lists(st.floats(0, 100, allow_nan=False), min_size=1, max_size=7),
    needed=st.integers(1, 7),
    deadline=st.none() | st.floats(0, 50),
    limit=st.none() | st.floats(0, 100),
    eager=st.booleans(),
    data=st.data(),
)
def test_by_a_virtual_clock_those_count_who_came_in_time_whatever_came_first(  # noqa: PLR0917 - drawn by name
    times: list[float], needed: int, deadline: float | None, limit: float | None, eager: bool, data: st.DataObject
) -> None:
    at = {f"end-{index}": time for index, time in enumerate(times)}
    needed = min(needed, len(at))
    collect = Collect(list(at), needed=needed, deadline=deadline, limit=limit, begun=0.0, eager=eager, virtual=True)
    for end in data.draw(st.permutations(sorted(at))):
        assert isinstance(collect.next(0.0), Wait)
        collect.offered(end, at[end])
    assert isinstance(drain(collect), Close)
    order = sorted(at, key=lambda end: (at[end], list(at).index(end)))
    quorum = at[order[needed - 1]]
    closes = min([float("inf") if deadline is None else quorum + deadline, float("inf") if limit is None else max(limit, quorum)])
    expected = [*order[:needed], *(end for end in order[needed:] if at[end] <= closes)]
    assert collect.folded == (expected if eager else [end for end in at if end in expected])
    assert collect.dropped == (len(expected) < len(at))


@pytest.mark.parametrize("eager", [False, True])
def test_the_bounds_of_a_virtual_round_are_no_times_to_wake_up_at(eager: bool) -> None:
    collect = Collect(ENDS, needed=1, deadline=1.0, limit=2.0, virtual=True, eager=eager)
    collect.offered("a", 1.0)
    assert collect.next(50.0) == Wait(None, ("b", "c", "d"))
