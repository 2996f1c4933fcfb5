"""Ends whose update is in that of another end, as the round of an aggregator sees them."""

from hypothesis import given
from hypothesis import strategies as st

from roles.rounds.collect import Close, Collect, Fold, Short, Wait

ENDS = ("t-0", "t-1", "t-2", "t-3")


def collect(needed: int | None = 4) -> Collect:
    return Collect(ENDS, needed=needed, rejoin_timeout=10.0)


def folded(round: Collect) -> list[str]:
    """Fold what is ready; who was folded."""
    while isinstance(step := round.next(0.0), Fold):
        round.done(step.end)
    return round.folded


@given(st.permutations(["covered t-1", "offered t-0", "covered t-3", "offered t-2"]))
def test_a_covered_end_counts_once_the_other_one_does(order: list[str]) -> None:
    round = collect()
    for at, said in enumerate(order):
        what, end = said.split()
        if what == "offered":
            round.offered(end, float(at))
        else:
            round.covered(end, "t-0" if end == "t-1" else "t-2")
        if at < 3:
            folded(round)
            assert isinstance(round.next(0.0), Wait)
    assert folded(round) == ["t-0", "t-2"]
    assert round.next(0.0) == Close({})


def test_if_the_other_end_is_lost_a_covered_one_has_to_deliver_by_itself() -> None:
    round = collect(needed=None)
    for end in ("t-1", "t-2"):
        round.covered(end, "t-0")
    round.offered("t-3", 0.0)
    round.lost("t-0", "killed")
    assert round.uncovered() == ["t-1", "t-2"]
    assert round.uncovered() == []
    assert round.next(0.0) == Wait(None, ("t-1", "t-2"))
    round.offered("t-1", 1.0)
    round.covered("t-2", "t-1")
    assert folded(round) == ["t-1", "t-3"]
    assert round.next(0.0) == Close({"t-0": "killed"})


def test_an_end_that_is_away_keeps_those_that_it_covers() -> None:
    round = collect()
    round.covered("t-1", "t-0")
    round.away("t-0", "broke", 0.0)
    assert round.uncovered() == []
    assert round.back("t-0")


def test_a_refused_update_takes_those_that_it_covers_with_it() -> None:
    round = collect(needed=2)
    round.covered("t-1", "t-0")
    round.lost("t-0", "not finite", "refused")
    assert round.uncovered() == []
    assert round.missing == {"t-0": "not finite", "t-1": "its update was in that of t-0: not finite"}


def test_who_is_covered_by_somebody_who_is_lost_already_is_asked_once_more_and_not_again() -> None:
    round = collect()
    round.lost("t-0", "killed")
    round.covered("t-1", "t-0")
    assert round.uncovered() == ["t-1"]
    assert round.expects("t-1")
    round.covered("t-1", "t-0")
    assert round.uncovered() == []
    assert round.missing["t-1"] == "its update was in that of t-0: killed"
    step = round.next(0.0)
    assert isinstance(step, Short)
    assert step.lost


def test_nobody_covers_itself_or_is_covered_by_a_stranger() -> None:
    round = collect(needed=2)
    round.covered("t-1", "t-1")
    round.covered("t-2", "x-9")
    assert set(round.missing) == {"t-1", "t-2"}
    assert "x-9, which is no other end of this round" in round.missing["t-2"]
