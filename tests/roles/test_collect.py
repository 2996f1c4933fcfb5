from fractions import Fraction
from math import ceil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roles.collect import Close, Collect, Fold, Short, Wait, quorum

ENDS = ("a", "b", "c", "d")


def drain(collect: Collect, now: float = 0.0) -> object:
    """Fold as long as there is something to fold; the step that is none."""
    while isinstance(step := collect.next(now), Fold):
        collect.done(step.end)
    return step


def test_updates_are_folded_in_the_order_of_the_plan_whatever_the_order_of_arrival() -> None:
    collect = Collect(ENDS, needed=4)
    for end in ("d", "b", "c"):
        collect.offered(end, 0.0)
        assert drain(collect) == Wait(None, tuple(sorted(set(ENDS) - collect._offered)))
    collect.offered("a", 0.0)
    assert drain(collect) == Close({})
    assert collect.folded == list(ENDS)


def test_a_lost_end_does_not_hold_up_those_behind_it() -> None:
    collect = Collect(ENDS, needed=2)
    for end in ("b", "c", "d"):
        collect.offered(end, 0.0)
    collect.lost("a", "crashed")
    assert drain(collect) == Close({"a": "crashed"})
    assert collect.folded == ["b", "c", "d"]


def test_a_round_that_cannot_reach_its_quorum_says_who_is_missing_and_why() -> None:
    collect = Collect(ENDS, needed=3)
    collect.lost("b", "crashed")
    assert collect.next(0.0) == Wait(None, ("a", "c", "d"))
    collect.lost("d", "values are not finite")
    assert collect.next(0.0) == Short("2 of 4 ends can deliver, 3 are needed (b: crashed; d: values are not finite)")


def test_a_refused_update_that_was_offered_takes_its_end_out() -> None:
    collect = Collect(("a", "b"), needed=1)
    collect.offered("a", 0.0)
    assert collect.next(0.0) == Fold("a")
    collect.lost("a", "values are not finite")
    collect.offered("b", 1.0)
    assert drain(collect, 1.0) == Close({"a": "values are not finite"})


def test_the_deadline_runs_from_the_moment_the_quorum_is_there() -> None:
    collect = Collect(ENDS, needed=2, deadline=5.0)
    assert collect.next(100.0) == Wait(None, ENDS)
    collect.offered("a", 100.0)
    assert drain(collect, 100.0) == Wait(None, ("b", "c", "d"))
    collect.offered("c", 103.0)
    assert drain(collect, 103.0) == Wait(108.0, ("b", "d"))
    assert drain(collect, 107.9) == Wait(108.0, ("b", "d"))
    late = "no update within 5 s of the quorum"
    assert drain(collect, 108.0) == Close({"b": late, "d": late})
    assert collect.folded == ["a", "c"]


def test_the_deadline_starts_anew_when_the_quorum_is_lost_and_found_again() -> None:
    collect = Collect(ENDS, needed=2, deadline=5.0)
    collect.offered("b", 0.0)
    collect.offered("c", 0.0)
    collect.lost("c", "crashed")
    assert collect.next(6.0) == Wait(None, ("a", "d"))
    collect.offered("d", 6.0)
    assert collect.next(6.0) == Wait(11.0, ("a",))


def test_an_end_is_expected_until_it_has_offered_or_is_lost() -> None:
    collect = Collect(("a", "b"), needed=1)
    assert collect.expects("a")
    assert not collect.expects("stranger")
    collect.offered("a", 0.0)
    assert not collect.expects("a")
    collect.lost("b", "left")
    assert not collect.expects("b")


def test_the_reason_of_the_first_loss_stays() -> None:
    collect = Collect(("a", "b"), needed=1)
    collect.lost("a", "crashed")
    collect.lost("a", "left")
    collect.lost("stranger", "left")
    assert collect.missing == {"a": "crashed"}


def test_upcoming_names_the_next_ends_without_a_gap() -> None:
    collect = Collect(ENDS, needed=4)
    for end in ("a", "b", "d"):
        collect.offered(end, 0.0)
    assert collect.upcoming(4) == ["a", "b"]
    assert collect.upcoming(1) == ["a"]
    collect.offered("c", 0.0)
    assert collect.upcoming(3) == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("min_ends", "ends", "needed"),
    [(None, 7, 7), (3, 7, 3), (1, 7, 1), (9, 7, 9), (0.5, 7, 4), (0.5, 8, 4), (0.07, 100, 7), (0.1, 30, 3), (0.001, 7, 1)],
)
def test_the_quorum_is_all_or_a_number_or_a_fraction_rounded_up(min_ends: float | None, ends: int, needed: int) -> None:
    assert quorum(min_ends, ends) == needed


@given(percent=st.integers(1, 99), ends=st.integers(1, 10_000))
def test_a_fraction_counts_by_the_decimal_that_was_written(percent: int, ends: int) -> None:
    assert quorum(percent / 100, ends) == max(1, ceil(Fraction(percent, 100) * ends))


events = st.lists(st.tuples(st.sampled_from(["offer", "lose", "refuse", "later"]), st.integers(0, 5)), max_size=40)


class Drill:
    """Plays events into a round; updates of some ends turn out to be bad once they are transferred."""

    def __init__(self, collect: Collect) -> None:
        self.collect = collect
        self.bad: set[str] = set()
        self.now = 0.0

    def play(self, what: str, index: int) -> object:
        """Let one thing happen, fold what can be; the step that is no fold."""
        end = f"end-{index}"
        if what == "offer" and self.collect.expects(end):
            self.collect.offered(end, self.now)
        elif what == "refuse" and end not in self.collect.folded:
            self.bad.add(end)
        elif what == "lose":
            self.collect.lost(end, "left")
        elif what == "later":
            self.now += index
        return self._settle()

    def _settle(self) -> object:
        for _ in range(100):
            step = self.collect.next(self.now)
            if not isinstance(step, Fold):
                return step
            if step.end in self.bad:
                self.collect.lost(step.end, "bad")
            else:
                self.collect.done(step.end)
        raise AssertionError("folding does not end")


@given(count=st.integers(1, 6), needed=st.integers(1, 6), deadline=st.none() | st.floats(0, 10), events=events)
def test_whatever_happens_a_round_ends_right(
    count: int, needed: int, deadline: float | None, events: list[tuple[str, int]]
) -> None:
    ends = [f"end-{index}" for index in range(count)]
    drill = Drill(Collect(ends, needed=needed, deadline=deadline))
    # After the events everybody leaves: a round must have ended by then.
    for what, index in [*events, *(("lose", index) for index in range(count))]:
        step = drill.play(what, index)
        if isinstance(step, Close | Short):
            break
    assert isinstance(step, Close | Short)
    folded, missing = drill.collect.folded, drill.collect.missing
    assert folded == [end for end in ends if end in folded]
    assert not set(folded) & (drill.bad | set(missing))
    if isinstance(step, Close):
        assert len(folded) >= needed
        assert set(folded) | set(step.missing) == set(ends)
    else:
        assert len(ends) - len(missing) < needed
        assert all(end in step.reason for end in missing)
