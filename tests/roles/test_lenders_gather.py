"""A root whose aggregators share trainers, event by event."""

from roles.lending.gather import LendersGather
from roles.rounds.collect import Close, Fold, Short, Wait
from roles.rounds.gather import Ask
from roles.strategy import Buffer

ENDS = ("m-0", "m-1")


def gather(needed: int | None = None) -> LendersGather:
    """In its first round, in which both were asked."""
    made = LendersGather(ENDS, Buffer(size=2), needed=needed)
    made.begin()
    for end in ENDS:
        assert made.next(0.0) == Ask(end)
        made.asked(end)
    return made


def deliver(some: LendersGather, end: str) -> None:
    some.offered(end, 1.0)
    assert some.next(1.0) == Fold(end)
    some.done(end)


def test_a_starved_aggregator_sits_the_round_out_and_is_not_missed_by_a_quorum() -> None:
    some = gather(needed=2)
    some.lost("m-1", "nobody", "starved")
    assert some.next(1.0) == Wait(None, ("m-0",))
    deliver(some, "m-0")
    assert some.next(1.0) == Close({"m-1": "nobody"})
    some.begin()
    assert [some.next(1.0)] == [Ask("m-1")]


def test_a_starved_one_is_asked_again_when_the_coordinator_knows_who_is_lost() -> None:
    some = gather()
    some.lost("m-1", "nobody", "starved")
    some.lost("m-0", "died")
    assert some.lost_without_sum == ("m-0",)
    assert some.next(1.0) == Wait(None, ("m-1",))
    some.relieve(("m-0",))
    assert some.next(1.0) == Ask("m-1")
    some.asked("m-1")
    some.lost("m-1", "nobody", "short")
    assert some.next(1.0) == Short("0 of 2 ends can deliver, 1 are needed (m-0: died; m-1: nobody)", lost=True)


def test_one_that_starved_before_the_coordinator_knew_is_asked_again_when_its_answer_comes_later() -> None:
    some = gather()
    some.lost("m-0", "died")
    some.relieve(("m-0",))
    some.lost("m-1", "nobody", "starved")
    assert some.next(1.0) == Ask("m-1")


def test_one_that_is_lost_after_its_sum_was_added_is_lost_for_the_next_round() -> None:
    some = gather()
    deliver(some, "m-0")
    some.lost("m-0", "died")
    assert not some.lost_without_sum
    some.lost("m-1", "nobody", "starved")
    assert some.next(1.0) == Close({"m-0": "died", "m-1": "nobody"})
    some.begin()
    assert some.lost_without_sum == ("m-0",)


def test_where_all_have_starved_they_are_asked_again() -> None:
    some = gather(needed=2)
    for end in ENDS:
        some.lost(end, "nobody", "starved")
    for end in ENDS:
        assert some.next(1.0) == Ask(end)
        some.asked(end)
    deliver(some, "m-0")
    some.lost("m-1", "nobody", "starved")
    assert some.next(1.0) == Close({"m-1": "nobody"})


def test_a_quorum_that_cannot_be_reached_is_told_though_some_have_starved() -> None:
    some = gather(needed=2)
    some.lost("m-1", "nobody", "starved")
    some.lost("m-0", "died")
    some.relieve(("m-0",))
    assert some.next(1.0) == Short("1 of 2 ends can deliver, 2 are needed (m-0: died)", lost=True)
