"""The leader of a ring, event by event."""

import pytest

from roles.presence import Presence
from roles.ring.lead import CORRUPT, Attempt, Broken, Call, Complete, Lead, members_of, roll_call
from roles.ring.standing import Standing
from roles.rounds.collect import Collect, Short, Wait

MEMBERS = ("t-0", "t-1", "t-2")
TAG = "2-abc"
READY, IDLE = Standing(trained=TAG, counts={"weight": 1.0, "samples": 1}), Standing(round=1)


def collect(*, needed: int | None = 3, deadline: float | None = None) -> Collect:
    return Collect(MEMBERS, needed=needed, deadline=deadline, rejoin_timeout=10.0)


def lead(*, needed: int | None = 3, calls: bool = True, deadline: float | None = None, number: int = 0) -> Lead:
    return Lead("t-0", collect(needed=needed, deadline=deadline), TAG, calls=calls, number=number)


def begun(*, needed: int | None = 3) -> Lead:
    """All have trained, and attempt 1 goes on."""
    leading = lead(needed=needed)
    for member in MEMBERS:
        leading.stands(member, READY, 0.0)
    assert leading.next(0.0) == Attempt(1, MEMBERS, MEMBERS)
    return leading


def finish(leading: Lead, *members: str, number: int = 1) -> None:
    for member in members:
        leading.finished(member, number)


def test_members_are_called_once_they_say_where_they_are() -> None:
    leading = lead()
    leading.stands("t-0", IDLE, 0.0)
    leading.stands("t-2", IDLE, 0.0)
    assert leading.next(0.0) == Call(("t-2",))
    assert leading.next(0.0) == Wait(None, MEMBERS)
    leading.stands("t-1", IDLE, 1.0)
    assert leading.next(1.0) == Call(("t-1",))


def test_members_that_train_by_themselves_are_not_called() -> None:
    leading = lead(calls=False)
    leading.stands("t-1", IDLE, 0.0)
    assert leading.next(0.0) == Wait(None, MEMBERS)


def test_a_member_that_comes_back_is_called_once_more() -> None:
    leading = lead()
    leading.stands("t-1", IDLE, 0.0)
    assert leading.next(0.0) == Call(("t-1",))
    leading.left("t-1", "broke", final=False, now=1.0)
    assert leading.next(1.0) == Wait(11.0, MEMBERS)
    leading.stands("t-1", IDLE, 2.0)
    assert leading.next(2.0) == Call(("t-1",))


def test_all_have_the_sum_before_it_counts() -> None:
    leading = begun()
    finish(leading, "t-0", "t-2")
    assert leading.next(0.0) == Wait(None, ("t-1",))
    finish(leading, "t-1")
    assert leading.next(0.0) == Complete(1, MEMBERS, {})


def test_an_attempt_begins_after_every_attempt_that_anybody_has_heard_of() -> None:
    leading = lead(number=3)
    leading.stands("t-0", READY, 0.0)
    leading.stands("t-1", Standing(trained=TAG, attempt=7), 0.0)
    leading.stands("t-2", READY, 0.0)
    assert leading.next(0.0) == Attempt(8, MEMBERS, MEMBERS)


def test_who_is_lost_for_good_inside_an_attempt_is_left_out_of_the_next() -> None:
    leading = begun(needed=None)
    leading.left("t-1", "killed", final=True, now=1.0)
    assert leading.next(1.0) == Attempt(2, ("t-0", "t-2"), ("t-0", "t-2"))
    finish(leading, "t-0", "t-2", number=1)
    assert leading.next(1.0) == Wait(None, ("t-0", "t-2")), "these were reports of the attempt before"
    finish(leading, "t-0", "t-2", number=2)
    assert leading.next(1.0) == Complete(2, ("t-0", "t-2"), {"t-1": "killed"})


def test_who_is_needed_and_away_is_waited_for_and_trains_again() -> None:
    leading = begun()
    leading.left("t-2", "broke", final=False, now=1.0)
    assert leading.next(1.0) == Wait(11.0, ("t-2",))
    leading.stands("t-2", IDLE, 2.0)
    assert leading.next(2.0) == Call(("t-2",))
    leading.stands("t-2", READY, 3.0)
    assert leading.next(3.0) == Attempt(2, MEMBERS, MEMBERS)


def test_who_is_needed_and_not_back_in_time_ends_the_round() -> None:
    leading = begun()
    leading.left("t-2", "broke", final=False, now=1.0)
    assert leading.next(11.0) == Short("2 of 3 ends can deliver, 3 are needed (t-2: broke; not back within 10 s)", lost=True)


def test_who_is_lost_after_it_had_the_sum_does_not_stop_the_others() -> None:
    leading = begun()
    finish(leading, "t-1")
    leading.left("t-1", "killed", final=True, now=1.0)
    finish(leading, "t-0", "t-2")
    assert leading.next(1.0) == Complete(1, MEMBERS, {})


def test_who_was_lost_after_it_had_the_sum_is_missing_if_the_attempt_breaks_later() -> None:
    leading = begun(needed=None)
    finish(leading, "t-1")
    leading.left("t-1", "killed", final=True, now=1.0)
    leading.broken("t-2", Broken(1, "t-1", "left", "broke"), 1.0)
    assert leading.next(1.0) == Attempt(2, ("t-0", "t-2"), ("t-0", "t-2"))


def test_a_break_between_two_who_are_there_makes_another_attempt_with_both() -> None:
    leading = begun()
    leading.broken("t-2", Broken(1, "t-1", "left", "broke"), 1.0)
    assert leading.next(1.0) == Attempt(2, MEMBERS, MEMBERS)
    leading.broken("t-2", Broken(1, "t-1", "left", "broke"), 1.0)
    assert leading.next(1.0) == Wait(None, MEMBERS), "that attempt was over"


def test_of_two_who_do_not_reach_each_other_the_later_one_is_left_out() -> None:
    leading = begun(needed=2)
    leading.broken("t-1", Broken(1, "t-2", "unreachable", "not connected within 10 s"), 1.0)
    assert leading.next(1.0) == Attempt(2, ("t-0", "t-1"), ("t-0", "t-1"))
    assert leading.missing == {"t-2": "t-1 and t-2 do not reach each other: not connected within 10 s"}


def test_damaged_bytes_are_sent_again_a_few_times() -> None:
    leading = begun()
    for number in range(1, CORRUPT + 1):
        leading.broken("t-1", Broken(number, "t-0", "corrupt", "checksum"), 1.0)
        assert leading.next(1.0) == Attempt(number + 1, MEMBERS, MEMBERS)
    leading.broken("t-1", Broken(CORRUPT + 1, "t-0", "corrupt", "checksum"), 1.0)
    step = leading.next(1.0)
    assert isinstance(step, Short)
    assert not step.lost
    assert "t-1: what t-0 sends does not reach t-1 undamaged: checksum" in step.reason


@pytest.mark.parametrize("member", ["t-0", "t-1"])
def test_an_update_that_cannot_be_used_does_not_count_and_the_leader_takes_part_all_the_same(member: str) -> None:
    leading = lead(needed=2)
    for each in MEMBERS:
        leading.stands(each, Standing(trained=TAG, fault="nan") if each == member else READY, 0.0)
    others = tuple(each for each in MEMBERS if each != member)
    assert leading.next(0.0) == Attempt(1, ("t-0", *others[-1:]) if member == "t-1" else MEMBERS, others)
    assert leading.missing == {member: "nan"}


def test_who_is_late_is_left_out_after_the_deadline() -> None:
    leading = lead(needed=2, deadline=5.0)
    leading.stands("t-2", IDLE, 0.0)
    assert leading.next(0.0) == Call(("t-2",))
    leading.stands("t-0", READY, 1.0)
    leading.stands("t-1", READY, 2.0)
    assert leading.next(2.0) == Wait(7.0, ("t-2",))
    assert leading.next(7.0) == Attempt(1, ("t-0", "t-1"), ("t-0", "t-1"))


def test_who_says_inside_an_attempt_that_it_has_another_update_breaks_it() -> None:
    leading = begun()
    leading.stands("t-1", IDLE, 1.0)
    assert leading.next(1.0) == Call(("t-1",))
    leading.stands("t-1", READY, 2.0)
    assert leading.next(2.0) == Attempt(2, MEMBERS, MEMBERS)


def test_who_was_started_anew_after_it_offered_has_to_train_again() -> None:
    leading = lead()
    leading.stands("t-0", READY, 0.0)
    leading.stands("t-1", READY, 0.0)
    assert leading.next(0.0) == Wait(None, ("t-2",))
    leading.left("t-1", "killed", final=False, now=1.0)
    leading.stands("t-2", READY, 1.0)
    assert leading.next(1.0) == Wait(11.0, ("t-1",))
    leading.stands("t-1", IDLE, 2.0)
    assert leading.next(2.0) == Call(("t-1",))


def test_a_roll_call_waits_for_those_that_the_policy_needs() -> None:
    presence = Presence(("t-1", "t-2"), now=0.0)
    presence.joined("t-1")
    assert roll_call(collect(), ["t-0"], presence, 1.0) == Wait(10.0, ("t-1", "t-2"))
    presence.left("t-2", "killed", final=True, now=1.0)
    assert isinstance(roll_call(collect(), ["t-0", "t-1"], presence, 1.0), Short)
    step = roll_call(collect(needed=None), ["t-0", "t-1"], presence, 1.0)
    assert step.missing == {"t-2": "killed"}  # type: ignore[union-attr]


def test_neighbours_follow_the_order() -> None:
    assert members_of(MEMBERS, "t-0") == ("t-2", "t-1", 0)
    assert members_of(("t-1",), "t-1") == ("t-1", "t-1", 0)
