"""Lending, event by event and whatever the events."""

from collections.abc import Mapping, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from roles.errors import UnexpectedMessage
from roles.lending.book import Lending, Loan
from roles.lending.desk import Desk, Told
from roles.lending.words import Request, numbers_of
from roles.presence import Presence
from transports.base import Joined, Left
from transports.message import Header, Scalar

ASKERS, TRAINERS = ("m-0", "m-1", "m-2"), tuple(f"t-{index}" for index in range(5))
EVERYBODY: Mapping[str, Sequence[str]] = dict.fromkeys(ASKERS, TRAINERS)


def lending(meets: Mapping[str, Sequence[str]] = EVERYBODY, there: Sequence[str] = TRAINERS, *, repeat: bool = False) -> Lending:
    """Those of `there` have been idle from the beginning."""
    made = Lending(meets, TRAINERS, repeat=repeat)
    for trainer in there:
        made.came(trainer, 0.0)
    return made


def pairs(loans: Sequence[Loan]) -> list[tuple[str, str]]:
    return [(loan.asker, loan.trainer) for loan in loans]


def give_back(lending: Lending, trainer: str, now: float) -> None:
    (loan,) = [loan for loan in lending.loans if loan.trainer == trainer]
    lending.returns(loan.asker, loan.number, now)


def test_whoever_asks_gets_as_many_idle_trainers_as_it_has_room_for() -> None:
    some = lending()
    assert some.grants() == []
    some.asks("m-1", 2, (), 1.0)
    assert pairs(some.grants()) == [("m-1", "t-0"), ("m-1", "t-1")]
    assert some.grants() == []
    some.asks("m-0", 9, (), 2.0)
    assert pairs(some.grants()) == [("m-0", "t-2"), ("m-0", "t-3"), ("m-0", "t-4")]


def test_the_room_counts_what_the_asker_has() -> None:
    some = lending()
    for _ in range(3):
        some.asks("m-0", 2, (), 1.0)
        some.grants()
    assert len(some.loans) == 2


def test_who_has_fewer_trainers_is_served_first_then_who_waits_longer_then_by_the_plan() -> None:
    some = lending(there=())
    for asker, now in (("m-2", 1.0), ("m-1", 2.0), ("m-0", 2.0)):
        some.asks(asker, 2, (), now)
    for trainer in TRAINERS:
        some.came(trainer, 3.0)
    assert pairs(some.grants()) == [("m-2", "t-0"), ("m-0", "t-1"), ("m-1", "t-2"), ("m-2", "t-3"), ("m-0", "t-4")]


def test_the_trainer_that_is_idle_longest_is_lent_first() -> None:
    some = lending()
    some.asks("m-0", 5, (), 1.0)
    some.grants()
    some.asks("m-0", 0, (), 1.0)
    for now, trainer in enumerate(["t-3", "t-1", "t-4"]):
        give_back(some, trainer, float(now))
    some.asks("m-1", 3, (), 9.0)
    assert pairs(some.grants()) == [("m-1", "t-3"), ("m-1", "t-1"), ("m-1", "t-4")]


def test_only_trainers_that_share_a_group_and_are_of_use_are_lent() -> None:
    some = lending({"m-0": ["t-0", "t-1", "t-2"], "m-1": ["t-3"], "m-2": []})
    some.asks("m-0", 5, ["t-1"], 1.0)
    some.asks("m-1", 5, (), 1.0)
    some.asks("m-2", 5, (), 1.0)
    assert pairs(some.grants()) == [("m-0", "t-0"), ("m-1", "t-3"), ("m-0", "t-2")]
    some.asks("m-0", 5, (), 2.0)
    assert pairs(some.grants()) == [("m-0", "t-1")]


@pytest.mark.parametrize("repeat", [True, False])
def test_a_lost_aggregators_trainers_are_free_at_once(repeat: bool) -> None:
    some = lending(repeat=repeat)
    some.asks("m-0", 5, (), 1.0)
    some.asks("m-1", 2, (), 2.0)
    assert {asker for asker, _ in pairs(some.grants())} == {"m-0", "m-1"}
    held = [loan.trainer for loan in some.loans if loan.asker == "m-0"]
    some.departs("m-0", 3.0)
    some.asks("m-2", 5, (), 4.0)
    if not repeat:
        # Their updates may be in a sum that it has handed up.
        assert some.grants() == []
        some.gone("m-0", 5.0)
    assert pairs(some.grants()) == [("m-2", trainer) for trainer in held]


ONE: Mapping[str, Sequence[str]] = dict.fromkeys(ASKERS, ("t-0",))


def test_a_trainer_that_is_in_a_sum_is_lent_to_others_when_the_aggregator_of_that_begins_its_next_task() -> None:
    some = lending(ONE, there=["t-0"])
    some.asks("m-0", 1, (), 1.0)
    (loan,) = some.grants()
    some.asks("m-1", 1, (), 2.0)
    some.returns("m-0", loan.number, 3.0)
    some.asks("m-0", 1, ["t-0"], 3.0, taken=["t-0"])
    assert some.grants() == []
    assert some.starving() == ["m-0", "m-1"]
    some.asks("m-0", 0, (), 4.0, taken=["t-0"])  # the sum is handed up
    some.asks("m-1", 1, (), 4.0)
    assert some.grants() == []
    assert some.starving() == ["m-1"]
    some.asks("m-0", 1, (), 5.0)
    assert pairs(some.grants()) == [("m-1", "t-0")]


def test_where_one_may_count_several_times_nobody_is_locked() -> None:
    some = lending(ONE, there=["t-0"], repeat=True)
    some.asks("m-0", 0, (), 1.0, taken=["t-0"])
    some.asks("m-1", 1, (), 2.0)
    assert pairs(some.grants()) == [("m-1", "t-0")]


def test_an_aggregator_that_comes_back_between_its_rounds_may_not_know_what_it_has_handed_up() -> None:
    some = lending(ONE, there=["t-0"])
    some.asks("m-0", 0, (), 1.0, taken=["t-0"])
    some.departs("m-0", 2.0)
    some.asks("m-0", 0, (), 3.0)
    some.asks("m-1", 1, (), 4.0)
    assert some.grants() == []
    assert some.starving() == ["m-1"]
    some.asks("m-0", 1, ["t-0"], 5.0)
    assert pairs(some.grants()) == [("m-1", "t-0")]


def test_a_trainer_that_came_anew_is_lent_to_others_when_its_aggregator_knows_of_it() -> None:
    some = lending(ONE, there=["t-0"])
    some.asks("m-0", 1, (), 1.0)
    (loan,) = some.grants()
    some.left("t-0", final=False)
    some.came("t-0", 2.0)
    some.asks("m-0", 0, (), 3.0, holds=["t-0"])
    some.asks("m-1", 1, (), 3.0)
    assert some.grants() == []
    assert some.starving() == ["m-1"]
    some.returns("m-0", loan.number, 4.0)
    some.asks("m-0", 0, (), 4.0)
    assert pairs(some.grants()) == [("m-1", "t-0")]


def test_nobody_is_locked_for_an_aggregator_that_gets_no_more_models() -> None:
    some = lending(there=["t-0"])
    some.asks("m-0", 0, (), 1.0, taken=["t-0"])
    some.exclude("m-0")
    some.asks("m-0", 0, (), 2.0, taken=["t-0"])
    some.asks("m-1", 1, (), 2.0)
    assert pairs(some.grants()) == [("m-1", "t-0")]


def test_a_trainer_that_comes_back_is_idle_and_its_former_loan_means_nothing() -> None:
    some = lending(there=["t-0"])
    some.asks("m-0", 1, (), 1.0)
    (former,) = some.grants()
    some.left("t-0", final=False)
    assert some.loans == []
    some.came("t-0", 2.0)
    (loan,) = some.grants()
    assert loan.number != former.number
    some.returns("m-0", former.number, 3.0)
    assert some.loans == [loan]
    some.returns("m-1", loan.number, 3.0)
    assert some.loans == [loan]


def test_an_excluded_trainer_is_lent_no_more() -> None:
    some = lending(there=["t-0"])
    some.asks("m-0", 1, (), 1.0)
    some.grants()
    some.exclude("t-0")
    some.came("t-0", 2.0)
    assert some.grants() == some.loans == []


def test_an_aggregator_that_was_away_keeps_its_trainers() -> None:
    some = lending(there=["t-0", "t-1"])
    some.asks("m-0", 2, (), 1.0)
    first, second = some.grants()
    some.departs("m-0", 2.0)
    some.asks("m-1", 1, (), 3.0)
    assert some.grants() == []
    for loan in (first, second):
        some.keeps("m-0", loan.trainer, loan.number)
    assert some.loans == [first, second]


def test_an_aggregator_that_was_away_keeps_those_who_are_still_free() -> None:
    some = lending(there=["t-0", "t-1"], repeat=True)
    some.asks("m-0", 2, (), 1.0)
    first, second = some.grants()
    some.departs("m-0", 2.0)
    some.asks("m-1", 1, (), 3.0)
    assert pairs(some.grants()) == [("m-1", "t-0")]
    for loan in (first, second):
        some.keeps("m-0", loan.trainer, loan.number)
    assert pairs(some.loans) == [("m-1", "t-0"), ("m-0", "t-1")]
    some.returns("m-0", second.number, 4.0)
    assert pairs(some.loans) == [("m-1", "t-0")]


def test_an_asker_is_told_once_when_all_others_are_with_aggregators_between_their_rounds() -> None:
    some = lending()
    some.asks("m-0", 5, (), 1.0)
    some.grants()
    some.asks("m-1", 1, (), 2.0)
    assert some.grants() == []
    assert some.starving() == []  # m-0 is in a round: it will give them back
    some.asks("m-0", 0, (), 3.0)
    assert some.starving() == ["m-1"]
    assert some.starving() == []
    some.asks("m-1", 1, (), 4.0)
    assert some.starving() == ["m-1"]
    give_back(some, "t-2", 5.0)
    assert pairs(some.grants()) == [("m-1", "t-2")]
    assert some.starving() == []


def test_starving_is_final_where_nobody_is_left() -> None:
    some = lending(ONE, there=["t-0"])
    some.asks("m-0", 1, (), 1.0)
    some.grants()
    some.asks("m-0", 0, (), 2.0, holds=["t-0"])
    some.asks("m-1", 1, (), 2.0)
    assert some.starving() == ["m-1"]
    assert not some.hopeless("m-1")
    some.exclude("m-0")
    assert some.hopeless("m-1")
    some.left("t-0", final=True)
    assert some.hopeless("m-1")


def test_nobody_starves_as_long_as_somebody_may_come_back() -> None:
    some = lending(there=["t-0"])
    some.asks("m-0", 1, ["t-0"], 1.0)
    assert some.starving() == []
    for trainer in TRAINERS[1:]:
        some.left(trainer, final=True)
    assert some.starving() == ["m-0"]


happenings = st.lists(
    st.tuples(
        st.sampled_from(["asks", "asks", "done", "left", "came", "gone", "departs", "lost", "exclude", "stale", "keeps"]),
        st.integers(0, 4),
        st.integers(0, 4),
        st.frozensets(st.sampled_from(TRAINERS), max_size=2),
    ),
    max_size=60,
)
groupings = st.fixed_dictionaries({asker: st.lists(st.sampled_from(TRAINERS), unique=True) for asker in ASKERS})


class Model:
    """What must be true, kept in the plainest way."""

    def __init__(self) -> None:
        self.there: set[str] = set()
        self.excluded: set[str] = set()
        self.asking: dict[str, tuple[int, frozenset[str]]] = {}
        self.taken: dict[str, set[str]] = {asker: set() for asker in ASKERS}
        self.broken: list[Loan] = []
        """Loans whose trainers went while they worked."""

    def locked(self, asker: str) -> set[str]:
        """Whom `asker` must not have."""
        taken = {trainer for other, some in self.taken.items() if other != asker for trainer in some}
        return taken | {loan.trainer for loan in self.broken if loan.asker != asker}

    def broke(self, loans: Sequence[Loan], trainer: str) -> None:
        self.broken += [loan for loan in loans if loan.trainer == trainer]

    def departed(self, loans: Sequence[Loan], asker: str) -> None:
        self.taken[asker] |= {loan.trainer for loan in [*loans, *self.broken] if loan.asker == asker}
        self.broken = [loan for loan in self.broken if loan.asker != asker]


@settings(max_examples=300)
@given(happenings=happenings, meets=groupings, repeat=st.booleans())
def test_whatever_happens_a_trainer_has_one_owner_none_is_lost_and_who_can_be_served_is(
    happenings: list[tuple[str, int, int, frozenset[str]]], meets: dict[str, list[str]], repeat: bool
) -> None:
    some, model, all_loans = Lending(meets, TRAINERS, repeat=repeat), Model(), list[Loan]()
    for now, (what, one, other, names) in enumerate(happenings):
        _happen(some, model, (what, one, other, names), now, all_loans)
        before = {loan.trainer for loan in some.loans}
        granted = some.grants()
        all_loans += granted
        owners = {loan.trainer: loan.asker for loan in some.loans}
        assert len(owners) == len(some.loans), "one owner each"
        assert not before & {loan.trainer for loan in granted}, "only idle ones are lent"
        assert set(owners) <= model.there - model.excluded, "only those who are there are lent"
        assert all(trainer in meets[asker] for trainer, asker in owners.items())
        for loan in granted:
            room, without = model.asking[loan.asker]
            assert loan.trainer not in without
            assert repeat or loan.trainer not in model.locked(loan.asker)
            assert sum(asker == loan.asker for asker in owners.values()) <= room
        idle = model.there - model.excluded - set(owners)
        for asker, (room, without) in model.asking.items():
            if room > sum(owner == asker for owner in owners.values()):
                locked = set() if repeat else model.locked(asker)
                assert not idle & set(meets[asker]) - without - locked, "every request is granted where somebody is idle"
    assert len({loan.number for loan in all_loans}) == len(all_loans)
    # Nobody is lost: one who may have all of a group gets all of it when the others leave.
    for asker in ASKERS[1:]:
        some.gone(asker, 99.0)
    some.asks(ASKERS[0], 99, (), 99.0)
    some.grants()
    assert {loan.trainer for loan in some.loans} == (model.there - model.excluded) & set(meets[ASKERS[0]])


def _happen(some: Lending, model: Model, what: tuple[str, int, int, frozenset[str]], now: float, past: list[Loan]) -> None:
    kind, one, other, names = what
    asker, trainer = ASKERS[one % 3], TRAINERS[one]
    if kind == "asks":
        # Whose update is in the sum is of no more use.
        some.asks(asker, other, names, now, taken=names)
        model.asking[asker] = (other, names)
        model.taken[asker] = set(names) if other else model.taken[asker] | names
    elif kind == "done" and some.loans:
        give_back(some, some.loans[one % len(some.loans)].trainer, now)
    elif kind == "stale" and past:
        loan = past[one % len(past)]
        standing = loan in some.loans
        before = some.loans
        some.returns(ASKERS[other % 3], loan.number, now)
        model.broken = [each for each in model.broken if (each.number, each.asker) != (loan.number, ASKERS[other % 3])]
        assert len(some.loans) >= len(before) - (standing and loan.asker == ASKERS[other % 3])
    elif kind == "keeps":
        some.keeps(asker, TRAINERS[other], f"kept-{now}")
    elif kind == "came":
        model.broke(some.loans, trainer)
        some.came(trainer, now)
        model.there.add(trainer)
    elif kind in ("left", "gone"):
        model.broke(some.loans, trainer)
        some.left(trainer, final=kind == "gone")
        model.there.discard(trainer)
    elif kind == "departs":
        model.departed(some.loans, asker)
        some.departs(asker, now)
        model.asking.pop(asker, None)
    elif kind == "lost":
        some.gone(asker, now)
        model.departed((), asker)
        model.taken[asker].clear()
        model.asking.pop(asker, None)
    elif kind == "exclude":
        some.exclude(trainer)
        model.excluded.add(trainer)


def desk(trainers: Sequence[str] = ("t-0", "t-1")) -> tuple[Desk, Presence]:
    presence = Presence(trainers, 0.0)
    return Desk(dict.fromkeys(ASKERS, trainers), trainers, presence, rejoin_timeout=10.0), presence


def header(scalars: Mapping[str, Scalar], round: int = 1) -> Header:
    return Header(kind="borrow", round=round, sender="m-0", scalars=scalars)


def asking(number: int, room: int, *, done: Sequence[str] = (), held: Mapping[str, str] | None = None) -> Header:
    return header(Request(number=number, room=room, done=tuple(done), held=held or {}).scalars())


def come(at: Desk, presence: Presence, *trainers: str) -> None:
    for trainer in trainers:
        presence.joined(trainer)
        at.note(Joined("c-trainer", trainer), 1.0)


def test_the_desk_lends_by_the_plan_whoever_has_joined_first() -> None:
    at, presence = desk()
    come(at, presence, "t-1", "t-0")
    at.requested("m-0", asking(1, 1), 2.0)
    (told,) = at.due(2.0)
    assert (told.asker, told.trainers) == ("m-0", ("t-0",))
    assert len(numbers_of(told.more)) == 1
    assert at.round == 1


def test_the_desk_takes_back_and_lends_in_one_request() -> None:
    at, presence = desk(["t-0"])
    come(at, presence, "t-0")
    at.requested("m-0", asking(1, 1), 2.0)
    (told,) = at.due(2.0)
    at.requested("m-1", asking(1, 1), 3.0)
    assert at.due(3.0) == []
    at.requested("m-0", asking(2, 0, done=numbers_of(told.more)), 4.0)
    (told,) = at.due(4.0)
    assert (told.asker, told.trainers) == ("m-1", ("t-0",))


def test_a_desk_that_was_started_anew_hears_from_aggregators_whom_they_have() -> None:
    at, presence = desk()
    come(at, presence, "t-0", "t-1")
    at.requested("m-0", asking(7, 1, held={"t-0": "old-1"}), 2.0)
    at.requested("m-1", asking(3, 2), 3.0)
    (told,) = at.due(3.0)
    assert (told.asker, told.trainers) == ("m-1", ("t-1",))
    at.requested("m-0", asking(8, 0, done=["old-1"]), 4.0)
    (told,) = at.due(4.0)
    assert (told.asker, told.trainers) == ("m-1", ("t-0",))


def test_a_trainer_that_is_away_too_long_is_gone_and_then_its_aggregators_starve() -> None:
    at, presence = desk(["t-0"])
    come(at, presence, "t-0")
    left = Left("c-trainer", "t-0", "broken pipe", clean=False)
    presence.left("t-0", left.reason, final=False, now=5.0)
    at.note(left, 5.0)
    at.requested("m-0", asking(4, 1), 6.0)
    assert at.due(6.0) == []
    assert at.until() == 15.0
    (told,) = at.due(15.0)
    assert told == Told("m-0", (), told.more)
    assert told.more["number"] == 4
    assert at.until() is None
    come(at, presence, "t-0")
    assert [told.trainers for told in at.due(16.0)] == [("t-0",)]


@pytest.mark.parametrize(
    "scalars",
    [
        {},
        {"number": 1, "room": 2},
        {"number": 1, "room": -1, "without": "[]", "taken": "[]", "done": "[]", "held": "{}"},
        {"number": 1, "room": 1, "without": "[1]", "taken": "[]", "done": "[]", "held": "{}"},
        {"number": 1, "room": 1, "without": "[]", "taken": "[]", "done": "{", "held": "{}"},
        {"number": 1, "room": 1, "without": "[]", "taken": "[]", "done": "[]", "held": "[]"},
        {"number": 1, "room": 1, "without": "[]", "taken": "[]", "done": "[]", "held": '{"t-0": 3}'},
    ],
)
def test_a_request_that_is_none_is_told(scalars: dict[str, Scalar]) -> None:
    with pytest.raises(UnexpectedMessage, match="a request for trainers"):
        desk()[0].requested("m-0", header(scalars), 1.0)


def test_an_assignment_without_loans_is_told() -> None:
    with pytest.raises(UnexpectedMessage, match="an assignment whose loans are None"):
        numbers_of({"ends": "[]"})
