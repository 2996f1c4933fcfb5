"""An asynchronous aggregator whose ends are lent to it, event by event."""

from roles.lending.gather import LentGather
from roles.rounds.collect import Close, Fold, Short, Wait, Why
from roles.rounds.gather import Ask
from roles.strategy import Buffer

ENDS = ("t-0", "t-1", "t-2")


def gather(size: int = 2, *, concurrency: int | None = None, repeat: bool = False) -> LentGather:
    """In its first round."""
    made = LentGather(ENDS, Buffer(size=size, concurrency=concurrency, repeat=repeat), needed=None, rejoin_timeout=10.0)
    made.begin()
    return made


def train(some: LentGather, end: str) -> None:
    """`end` is lent and asked."""
    some.lend(end)
    assert some.next(0.0) == Ask(end)
    some.asked(end)


def deliver(some: LentGather, end: str) -> None:
    """The update of `end` comes and is added."""
    some.offered(end, 1.0)
    assert some.next(1.0) == Fold(end)
    some.done(end)


def test_nobody_is_asked_who_is_not_lent() -> None:
    some = gather()
    assert some.next(0.0) == Wait(None, ())
    assert some.room == 3
    train(some, "t-1")
    assert some.next(0.0) == Wait(None, ("t-1",))
    assert [some.holds(end) for end in ENDS] == [False, True, False]


def test_an_end_is_given_back_when_its_update_was_added_and_may_count_once() -> None:
    some = gather()
    train(some, "t-1")
    some.offered("t-1", 1.0)
    assert some.holds("t-1")
    some.done("t-1")
    assert not some.holds("t-1")
    assert some.useless == ("t-1",)
    assert gather(repeat=True).useless == ()


def test_an_end_is_given_back_when_it_is_lost_away_or_its_update_was_refused() -> None:
    reasons: tuple[Why, ...] = ("refused", "lost", "excluded")
    for what in reasons:
        some = gather()
        train(some, "t-1")
        some.lost("t-1", "bad luck", what)
        assert not some.holds("t-1")
        assert some.useless == ("t-1",)
    some = gather()
    train(some, "t-1")
    some.away("t-1", "broken pipe", 1.0)
    assert not some.holds("t-1")
    assert some.useless == ("t-1",)
    some.back("t-1")
    assert not some.holds("t-1")
    assert not some.useless


def test_an_end_that_was_lent_once_more_before_its_update_was_known_to_be_added_is_not_taken() -> None:
    some = gather()
    train(some, "t-1")
    deliver(some, "t-1")
    some.lend("t-1")
    assert not some.holds("t-1")


def test_an_end_that_is_away_is_not_taken() -> None:
    some = gather()
    some.away("t-1", "broken pipe", 1.0)
    some.lend("t-1")
    assert not some.holds("t-1")


def test_a_refused_end_is_of_use_again_in_the_next_round() -> None:
    some = gather()
    train(some, "t-1")
    some.lost("t-1", "bad luck", "refused")
    some.begin()
    assert some.useless == ()


def test_who_trains_when_a_round_closes_is_held_on_and_who_was_not_asked_is_not() -> None:
    some = gather(1, concurrency=2)
    for end in ENDS[:2]:
        train(some, end)
    deliver(some, "t-0")
    assert some.next(1.0) == Close({})
    some.lend("t-2")
    some.release()
    assert [some.holds(end) for end in ENDS] == [False, True, False]


def test_a_starved_round_closes_with_what_it_has_once_nobody_trains() -> None:
    some = gather(3)
    for end in ENDS[:2]:
        train(some, end)
    deliver(some, "t-0")
    some.starve("all are elsewhere")
    assert isinstance(some.next(1.0), Wait)
    deliver(some, "t-1")
    assert some.next(1.0) == Close({})


def test_a_starved_round_without_any_update_is_short_and_says_why() -> None:
    some = gather()
    some.starve("all are elsewhere")
    assert some.next(1.0) == Short("no end was lent: all are elsewhere", lost=True, starved=True)
    some.starve("all are gone", final=True)
    assert some.next(1.0) == Short("no end was lent: all are gone", lost=True)


def test_a_loan_or_another_word_ends_the_starving() -> None:
    for relieve in (lambda some: some.lend("t-0"), lambda some: some.starve("")):
        some = gather()
        some.starve("all are elsewhere")
        relieve(some)
        assert isinstance(some.next(1.0), Ask | Wait)


def test_at_the_end_of_the_job_no_round_closes() -> None:
    some = gather()
    train(some, "t-0")
    some.stop("the job is over")
    assert some.next(1.0) == Short("the job is over", lost=True)
    some.begin()
    assert some.next(1.0) == Short("the job is over", lost=True)


def test_without_any_end_that_is_left_a_round_is_short() -> None:
    some = gather()
    for end in ENDS:
        some.lost(end, "died")
    assert isinstance(some.next(0.0), Short)
