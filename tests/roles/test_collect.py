from fractions import Fraction
from math import ceil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roles.rounds.collect import Close, Collect, Fold, Short, Wait
from roles.settings import Quorum

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
    assert collect.next(0.0) == Short("2 of 4 ends can deliver, 3 are needed (b: crashed; d: values are not finite)", lost=True)


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
    [(None, 7, 7), (3, 7, 3), (1, 7, 1), (9, 7, 7), (0.5, 7, 4), (0.5, 8, 4), (0.07, 100, 7), (0.1, 30, 3), (0.001, 7, 1)],
)
def test_the_quorum_is_all_or_a_number_or_a_fraction_rounded_up(min_ends: float | None, ends: int, needed: int) -> None:
    assert Quorum(min_ends=min_ends).needed(ends, 0) == needed


@given(percent=st.integers(1, 99), ends=st.integers(1, 10_000))
def test_a_fraction_counts_by_the_decimal_that_was_written(percent: int, ends: int) -> None:
    assert Quorum(min_ends=percent / 100).needed(ends, 0) == max(1, ceil(Fraction(percent, 100) * ends))


def test_survivors_need_who_is_left_and_somebody() -> None:
    quorum = Quorum(survivors=True)
    assert [quorum.needed(3, gone) for gone in range(4)] == [3, 2, 1, 1]
    assert Quorum(survivors=True, min_ends=2).needed(3, 1) == 2


def test_an_end_that_is_away_keeps_its_place_while_the_round_needs_it() -> None:
    collect = Collect(("a", "b"), needed=2, rejoin_timeout=10.0)
    collect.away("a", "broken pipe", 100.0)
    collect.offered("b", 101.0)
    assert collect.next(101.0) == Wait(110.0, ("a",))
    assert collect.back("a")
    assert collect.next(105.0) == Wait(None, ("a",))
    collect.offered("a", 200.0)
    assert drain(collect, 200.0) == Close({})
    assert collect.folded == ["a", "b"]


def test_an_end_that_does_not_come_back_in_time_is_lost() -> None:
    collect = Collect(("a", "b"), needed=2, rejoin_timeout=10.0)
    collect.away("a", "broken pipe", 100.0)
    reason = "1 of 2 ends can deliver, 2 are needed (a: broken pipe; not back within 10 s)"
    assert isinstance(collect.next(109.9), Wait)
    assert collect.next(110.0) == Short(reason, lost=True)


def test_an_end_that_is_away_and_not_needed_is_dropped_once_everybody_there_has_delivered() -> None:
    collect = Collect(("a", "b", "c"), needed=2, rejoin_timeout=1000.0)
    collect.away("a", "broken pipe", 0.0)
    collect.offered("b", 1.0)
    assert collect.next(1.0) == Wait(1000.0, ("a", "c"))
    collect.offered("c", 2.0)
    assert drain(collect, 2.0) == Close({"a": "broken pipe"})
    assert collect.folded == ["b", "c"]


def test_an_end_that_is_back_while_others_still_work_takes_part() -> None:
    collect = Collect(("a", "b", "c"), needed=2)
    collect.away("a", "broken pipe", 0.0)
    collect.offered("b", 1.0)
    assert collect.back("a")
    collect.offered("c", 2.0)
    assert drain(collect, 2.0) == Wait(None, ("a",))


def test_what_an_end_offered_is_lost_with_its_connection() -> None:
    collect = Collect(("a", "b"), needed=1, deadline=5.0)
    collect.offered("b", 0.0)
    collect.away("b", "broken pipe", 1.0)
    assert collect.closes_at is None
    assert collect.expects("b")
    collect.offered("a", 2.0)
    assert drain(collect, 2.0) == Close({"b": "broken pipe"})


def test_an_end_that_has_delivered_or_is_lost_is_not_asked_again_when_it_is_back() -> None:
    collect = Collect(("a", "b", "c"), needed=1)
    collect.offered("a", 0.0)
    assert collect.next(0.0) == Fold("a")
    collect.done("a")
    collect.away("a", "broken pipe", 1.0)
    collect.lost("b", "crashed")
    assert not collect.back("a")
    assert not collect.back("b")
    assert not collect.back("stranger")
    assert collect.back("c")


def test_the_deadline_drops_who_is_away_too() -> None:
    collect = Collect(("a", "b", "c"), needed=1, deadline=5.0, rejoin_timeout=100.0)
    collect.offered("c", 10.0)
    collect.away("a", "broken pipe", 11.0)
    assert collect.next(12.0) == Wait(15.0, ("a", "b"))
    late = "no update within 5 s of the quorum"
    assert drain(collect, 15.0) == Close({"a": late, "b": late})


def test_survivors_go_on_without_the_lost_but_not_without_the_refused() -> None:
    collect = Collect(ENDS, needed=None)
    collect.lost("a", "killed")
    collect.lost("b", "excluded: too many", "excluded")
    assert collect.needed == 2
    collect.offered("c", 0.0)
    collect.lost("d", "not finite", "refused")
    assert collect.next(0.0) == Short(
        "1 of 4 ends can deliver, 2 are needed (a: killed; b: excluded: too many; d: not finite)", lost=False
    )


def test_survivors_wait_for_who_is_away_and_then_go_on() -> None:
    collect = Collect(("a", "b"), needed=None, rejoin_timeout=10.0)
    collect.away("a", "broken pipe", 0.0)
    collect.offered("b", 1.0)
    assert collect.next(1.0) == Wait(10.0, ("a",))
    assert drain(collect, 10.0) == Close({"a": "broken pipe; not back within 10 s"})


def test_when_nobody_is_left_even_survivors_fall_short() -> None:
    collect = Collect(("a", "b"), needed=None)
    collect.lost("a", "killed")
    collect.lost("b", "killed")
    assert collect.next(0.0) == Short("0 of 2 ends can deliver, 1 are needed (a: killed; b: killed)", lost=True)


WHAT = ["offer", "lose", "refuse", "away", "back", "later"]
events = st.lists(st.tuples(st.sampled_from(WHAT), st.integers(0, 5)), max_size=60)


class Drill:
    """Plays events into a round; updates of some ends turn out to be bad once they are transferred."""

    def __init__(self, collect: Collect, ends: list[str]) -> None:
        self.collect = collect
        self.ends = ends
        self.bad: set[str] = set()
        self.away: set[str] = set()
        self.ended: list[str] = []
        self.now = 0.0

    def play(self, what: str, index: int) -> object:
        """Let one thing happen, fold what can be; the step that is no fold."""
        end = f"end-{index}"
        if what == "later":
            self.now += index
        elif end not in self.ends:
            pass
        elif what == "offer" and self.collect.expects(end) and end not in self.away:
            self.collect.offered(end, self.now)
        elif what == "refuse" and end not in self.collect.folded:
            self.bad.add(end)
        elif what == "lose":
            self.collect.lost(end, "left")
        elif what == "away":
            self.away.add(end)
            self.collect.away(end, "broken", self.now)
        elif what == "back":
            self.away.discard(end)
            assert self.collect.back(end) == self.collect.expects(end)
        return self._settle()

    def _settle(self) -> object:
        for _ in range(100):
            step = self.collect.next(self.now)
            if not isinstance(step, Fold):
                return step
            assert step.end not in self.away
            self.ended.append(step.end)
            if step.end in self.bad:
                self.collect.lost(step.end, "bad", "refused")
            else:
                self.collect.done(step.end)
        raise AssertionError("folding does not end")


def check_ended(drill: Drill, step: object, needed: int | None) -> None:
    """What holds of every round that has ended."""
    folded, missing = drill.collect.folded, drill.collect.missing
    assert folded == [end for end in drill.ends if end in folded]
    assert not set(folded) & (drill.bad | set(missing))
    assert len(drill.ended) == len(set(drill.ended)), "no end is folded twice"
    if isinstance(step, Close):
        assert len(folded) >= (needed or 1)
        assert sorted([*folded, *step.missing]) == sorted(drill.ends), "each end is folded or missing"
    else:
        assert isinstance(step, Short)
        assert len(drill.ends) - len(missing) < drill.collect.needed
        assert all(end in step.reason for end in missing)


@given(
    count=st.integers(1, 6),
    needed=st.integers(1, 6) | st.none(),
    limits=st.tuples(st.none() | st.floats(0, 10), st.floats(0, 10)),
    events=events,
    ending=st.sampled_from(["lose", "away", "offer"]),
)
def test_whatever_happens_a_round_ends_right(
    count: int, needed: int | None, limits: tuple[float | None, float], events: list[tuple[str, int]], ending: str
) -> None:
    deadline, rejoin_timeout = limits
    ends = [f"end-{index}" for index in range(count)]
    collect = Collect(ends, needed=needed, deadline=deadline, rejoin_timeout=rejoin_timeout)
    drill = Drill(collect, ends)
    # After the events everybody leaves, breaks off for good, or comes back and delivers: a round must have ended by then.
    last = [*(("back", index) for index in range(count)), *((ending, index) for index in range(count)), ("later", 10)]
    for what, index in [*events, *last]:
        step = drill.play(what, index)
        if isinstance(step, Close | Short):
            break
        assert isinstance(step, Wait)
        assert step.until is None or step.until > drill.now
        assert step.until is not None or set(step.ends) - drill.away, "somebody is there to wait for"
    check_ended(drill, step, needed)


@given(count=st.integers(1, 6), orders=st.permutations(range(6)), flaps=st.lists(st.integers(0, 5), max_size=8))
def test_the_order_of_arrival_and_of_breaks_never_changes_what_is_folded(count: int, orders: list[int], flaps: list[int]) -> None:
    ends = [f"end-{index}" for index in range(count)]
    drill = Drill(Collect(ends, needed=count), ends)
    for index in flaps:
        drill.play("offer", index)
        drill.play("away", index)
        drill.play("back", index)
    for index in orders:
        step = drill.play("offer", index)
    assert step == Close({})
    assert drill.collect.folded == ends
