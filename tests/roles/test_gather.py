from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roles.rounds.collect import Close, Fold, Short, Wait
from roles.rounds.gather import Ask, Gather
from roles.strategy import Buffer

ENDS = ("a", "b", "c", "d")


def gather(
    size: int = 2, *, concurrency: int | None = None, repeat: bool = False, needed: int | None = 4, virtual: bool = False
) -> Gather:
    buffer = Buffer(size=size, concurrency=concurrency, repeat=repeat)
    return Gather(ENDS, buffer, needed=needed, rejoin_timeout=10.0, virtual=virtual)


def asked(machine: Gather, now: float = 0.0) -> list[str]:
    """Ask everybody who is to be asked; who that was."""
    found = []
    while isinstance(step := machine.next(now), Ask):
        machine.asked(step.end)
        found.append(step.end)
    return found


def folded(machine: Gather, now: float = 0.0) -> list[str]:
    """Fold what can be folded; whose updates."""
    found = []
    while isinstance(step := machine.next(now), Fold):
        machine.done(step.end)
        found.append(step.end)
    return found


def test_everybody_is_asked_at_once_and_then_waited_for() -> None:
    machine = gather()
    assert asked(machine) == list(ENDS)
    assert machine.next(0.0) == Wait(None, ENDS)


def test_updates_are_folded_as_they_come_and_the_buffer_closes_the_round() -> None:
    machine = gather()
    asked(machine)
    machine.offered("c", 1.0)
    assert folded(machine) == ["c"]
    assert machine.next(1.0) == Wait(None, ("a", "b", "d"))
    machine.offered("a", 2.0)
    assert folded(machine) == ["a"]
    assert machine.next(2.0) == Close({})


def test_updates_that_wait_are_folded_in_the_order_of_their_arrival_then_of_the_models_sent() -> None:
    machine = gather(4)
    asked(machine)
    for end, at in (("d", 1.0), ("b", 3.0), ("c", 2.0), ("a", 3.0)):
        machine.offered(end, at)
    assert machine.upcoming(4) == ["d", "c", "a", "b"]
    assert folded(machine) == ["d", "c", "a", "b"]


def test_who_trains_when_a_round_closes_counts_in_the_next_one() -> None:
    machine = gather(1)
    asked(machine)
    machine.offered("a", 1.0)
    machine.offered("b", 1.0)
    assert folded(machine) == ["a"]
    assert machine.next(1.0) == Close({})
    machine.begin()
    assert machine.expects("c")
    assert asked(machine) == ["a"], "the one that is free"
    assert folded(machine) == ["b"]


def test_an_end_counts_once_in_a_buffer_unless_it_may_repeat() -> None:
    for repeat in (False, True):
        machine = gather(3, repeat=repeat)
        asked(machine)
        machine.offered("a", 1.0)
        assert folded(machine) == ["a"]
        assert asked(machine) == (["a"] if repeat else [])
        assert machine.turn("a") == 1


def test_no_more_train_than_may_at_the_same_time_and_who_has_waited_longest_is_next() -> None:
    machine = gather(3, concurrency=2)
    assert asked(machine) == ["a", "b"]
    machine.offered("b", 1.0)
    assert machine.next(1.0) == Fold("b")
    machine.done("b")
    assert asked(machine) == ["c"]
    machine.offered("c", 2.0)
    machine.offered("a", 2.0)
    assert folded(machine) == ["a"]
    assert asked(machine) == ["d"]
    assert folded(machine) == ["c"]
    assert machine.next(2.0) == Close({})


def test_who_has_delivered_is_asked_again_after_those_who_wait() -> None:
    machine = gather(1, concurrency=1)
    order = []
    for _ in range(6):
        order += asked(machine)
        machine.offered(order[-1], 0.0)
        assert folded(machine) == [order[-1]]
        assert machine.next(0.0) == Close({})
        machine.begin()
    assert order == ["a", "b", "c", "d", "a", "b"]


def test_an_end_that_is_away_keeps_its_place_and_is_asked_again_when_it_is_back() -> None:
    machine = gather()
    asked(machine)
    machine.away("b", "broken pipe", 100.0)
    assert not machine.expects("b")
    assert machine.next(100.0) == Wait(110.0, ENDS)
    assert machine.back("b") is False
    assert asked(machine) == ["b"]


def test_what_was_offered_is_lost_with_its_connection() -> None:
    machine = gather(1)
    asked(machine)
    machine.offered("b", 1.0)
    machine.away("b", "broken pipe", 1.0)
    assert machine.next(1.0) == Wait(11.0, ENDS)
    machine.back("b")
    assert asked(machine) == ["b"]


def test_an_end_that_does_not_come_back_in_time_is_lost_and_the_round_falls_short_if_it_is_needed() -> None:
    machine = gather()
    asked(machine)
    machine.away("b", "broken pipe", 100.0)
    reason = "3 of 4 ends can deliver, 4 are needed (b: broken pipe; not back within 10 s)"
    assert machine.next(110.0) == Short(reason, lost=True)


def test_an_end_that_was_given_up_takes_part_again_once_it_is_back() -> None:
    machine = gather(needed=None)
    asked(machine)
    machine.lost("b", "killed")
    assert machine.missing == {"b": "killed"}
    machine.begin()
    assert machine.missing == {"b": "killed"}, "in every round"
    machine.back("b")
    assert machine.missing == {}
    assert asked(machine) == ["b"]


def test_an_excluded_end_is_not_asked_again_even_if_it_comes_back() -> None:
    machine = gather(needed=None)
    asked(machine)
    machine.lost("b", "excluded: too many", "excluded")
    machine.away("b", "broken pipe", 0.0)
    machine.back("b")
    machine.begin()
    assert asked(machine) == []
    assert machine.missing == {"b": "excluded: too many"}


def test_an_end_whose_update_was_bad_is_asked_again_in_the_next_round_only() -> None:
    machine = gather()
    asked(machine)
    machine.offered("a", 0.0)
    assert machine.next(0.0) == Fold("a")
    machine.lost("a", "values are not finite", "refused")
    assert asked(machine) == []
    assert machine.missing == {"a": "values are not finite"}
    machine.begin()
    assert asked(machine) == ["a"]


def test_a_buffer_that_can_not_be_filled_closes_with_those_who_can_deliver() -> None:
    machine = gather(10, needed=None)
    asked(machine)
    machine.lost("d", "killed")
    for end in ("a", "b", "c"):
        assert isinstance(machine.next(0.0), Wait)
        machine.offered(end, 0.0)
        folded(machine)
    assert machine.next(0.0) == Close({"d": "killed"})


def test_when_all_updates_were_bad_the_round_falls_short_and_says_why() -> None:
    machine = gather(needed=1)
    asked(machine)
    for end in ENDS:
        machine.offered(end, 0.0)
        machine.lost(end, "bad", "refused")
    assert machine.next(0.0) == Short("0 of 4 ends can deliver, 1 are needed (a: bad; b: bad; c: bad; d: bad)", lost=False)


def test_when_nobody_is_left_the_round_falls_short() -> None:
    machine = gather(needed=None)
    for end in ENDS:
        machine.lost(end, "killed")
    assert machine.next(0.0) == Short(
        "0 of 4 ends can deliver, 1 are needed (a: killed; b: killed; c: killed; d: killed)", lost=True
    )


def test_by_a_virtual_clock_nothing_is_folded_while_somebody_trains_or_may_come_back() -> None:
    machine = gather(2, virtual=True)
    asked(machine)
    for end, at in (("d", 4.0), ("b", 2.0), ("c", 3.0)):
        machine.offered(end, at)
    assert machine.next(0.0) == Wait(None, ("a",))
    machine.away("a", "broken pipe", 100.0)
    assert machine.next(100.0) == Wait(110.0, ("a",))
    machine.back("a")
    assert asked(machine) == ["a"]
    machine.offered("a", 2.5)
    assert folded(machine) == ["b", "a"]
    assert machine.next(0.0) == Close({})


def test_ends_that_are_lent_are_asked_once_for_each_time() -> None:
    machine = Gather(ENDS, Buffer(size=2, concurrency=3), needed=None, lent=True)
    assert asked(machine) == []
    machine.lend("c")
    machine.lend("c")
    assert asked(machine) == ["c"]
    machine.offered("c", 0.0)
    assert folded(machine) == ["c"]
    assert asked(machine) == []


def test_an_end_that_lacks_ends_of_its_own_counts_as_missing_in_that_round() -> None:
    machine = gather(needed=4)
    asked(machine)
    machine.lost("a", "nobody left", "short")
    assert machine.next(0.0) == Short("3 of 4 ends can deliver, 4 are needed (a: nobody left)", lost=True)
    machine.begin()
    assert asked(machine) == ["a"]
    tolerant = gather(needed=3)
    asked(tolerant)
    tolerant.lost("a", "nobody left", "short")
    assert isinstance(tolerant.next(0.0), Wait)


def test_a_sum_can_not_be_begun_anew() -> None:
    with pytest.raises(RuntimeError, match="cannot begin anew"):
        gather().begin_anew()


def test_no_update_is_dropped_for_taking_long() -> None:
    machine = gather()
    assert (machine.closes_at, machine.patience) == (None, None)
    assert not machine.spares("a")


WHAT = ["offer", "lose", "refuse", "exclude", "away", "back", "join", "bad", "later", "round"]
events = st.lists(st.tuples(st.sampled_from(WHAT), st.integers(0, 4)), max_size=80)


class Drill:
    """Plays events into the machine as an aggregator would, and looks at every step."""

    def __init__(self, machine: Gather, ends: list[str], buffer: Buffer) -> None:
        self.machine = machine
        self.ends = ends
        self.buffer = buffer
        self.training: list[str] = []
        """The one that trains longest first."""
        self.offered: set[str] = set()
        self.away: set[str] = set()
        self.excluded: set[str] = set()
        self.now = 0.0
        self.over: object = None

    def play(self, what: str, index: int) -> object:
        """Let one thing happen; the step that waits, or that ends a round."""
        end = self.ends[index % len(self.ends)]
        if what == "later":
            self.now += index
        elif what == "offer" and end in self.training:
            self._drop(end)
            self.offered.add(end)
            self.machine.offered(end, self.now)
        elif what in ("lose", "exclude"):
            self._drop(end)
            self.machine.lost(end, what, "lost" if what == "lose" else "excluded")
            self.excluded |= {end} if what == "exclude" else set()
        elif what in ("refuse", "bad") and end in {*self.training, *self.offered}:
            self._drop(end)
            self.machine.lost(end, "bad", "refused")
        elif what == "away":
            self._drop(end)
            self.away.add(end)
            self.machine.away(end, "broken", self.now)
        elif what in ("back", "join"):
            self.away.discard(end)
            self._drop(end)
            # What it offered went with its connection, which an aggregator always hears of first.
            self.machine.away(end, "broken", self.now)
            assert self.machine.back(end) is False
        return self.settle()

    def _drop(self, end: str) -> None:
        self.training = [other for other in self.training if other != end]
        self.offered.discard(end)

    def settle(self) -> object:
        for _ in range(200):
            step = self.machine.next(self.now)
            if isinstance(step, Ask):
                assert step.end not in {*self.training, *self.offered, *self.excluded, *self.away}
                assert step.end not in self.machine.missing
                assert self.buffer.repeat or step.end not in self.machine.folded
                self.machine.asked(step.end)
                self.training.append(step.end)
                assert len(self.training) + len(self.offered) <= (self.buffer.concurrency or len(self.ends))
            elif isinstance(step, Fold):
                assert step.end in self.offered
                self.offered.discard(step.end)
                self.machine.done(step.end)
            else:
                self._check(step)
                return step
        raise AssertionError("it does not end")

    def _check(self, step: object) -> None:
        folded = self.machine.folded
        assert len(folded) <= self.buffer.size
        assert self.buffer.repeat or max(Counter(folded).values(), default=1) == 1
        assert {end for end in self.ends if self.machine.expects(end)} == set(self.training)
        if isinstance(step, Close):
            assert folded
            assert step.missing == self.machine.missing
        elif isinstance(step, Wait):
            assert set(step.ends), "it names whom it waits for"
            assert step.until is None or step.until > self.now
            assert step.until is not None or self.training
        else:
            assert isinstance(step, Short)
            assert all(end in step.reason for end in self.machine.missing)


@given(
    count=st.integers(1, 5),
    size=st.integers(1, 6),
    concurrency=st.none() | st.integers(1, 5),
    repeat=st.booleans(),
    needed=st.none() | st.integers(1, 5),
    virtual=st.booleans(),
    events=events,
)
def test_whatever_happens_nobody_is_forgotten_and_every_round_ends_or_waits_for_somebody(  # noqa: PLR0917 - drawn by name
    count: int,
    size: int,
    concurrency: int | None,
    repeat: bool,
    needed: int | None,
    virtual: bool,
    events: list[tuple[str, int]],
) -> None:
    ends, buffer = [f"end-{index}" for index in range(count)], Buffer(size=size, concurrency=concurrency, repeat=repeat)
    machine = Gather(ends, buffer, needed=needed and min(needed, count), rejoin_timeout=5.0, virtual=virtual)
    drill = Drill(machine, ends, buffer)
    for what, index in events:
        step = drill.play(what, index)
        if isinstance(step, Close | Short):
            machine.begin()
            drill.settle()
    # At last everybody comes back and delivers, round after round: then everybody who is not excluded counts.
    able = {end for end in ends if end not in drill.excluded}
    for end in able:
        drill.play("back", ends.index(end))
    if len(able) < (machine._needed or 1):
        assert isinstance(drill.settle(), Short)
        return
    counted: Counter[str] = Counter()
    for _ in range(4 * count):
        before = len(machine.folded)  # by somebody who may have been excluded since: what was added stays added
        step = drill.settle()
        while not isinstance(step, Close):
            assert isinstance(step, Wait), step
            assert drill.training
            step = drill.play("offer", ends.index(drill.training[0]))
        counted.update(machine.folded[before:])
        machine.begin()
    assert counted.keys() == able
