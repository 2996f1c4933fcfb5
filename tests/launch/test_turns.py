"""What is written down of turns, and which of them are too long."""

import os
import signal
from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flame_run.launch.turns import NO_TURN, RECORD_BYTES, LongTurns, Turn, TurnMark, read_turn

moments = st.floats(0, 1e9)
turns = st.builds(Turn, st.integers(0, 2**38), st.none() | st.integers(0, 2**20), moments)


@given(st.lists(turns, min_size=1))
def test_the_last_turn_that_was_written_down_is_read(written: list[Turn]) -> None:
    file = os.memfd_create("test")
    try:
        assert read_turn(file) == NO_TURN
        mark = TurnMark(file)
        assert read_turn(file) == NO_TURN
        for turn in written:
            mark(turn)
            assert read_turn(file) == turn
        assert os.fstat(file).st_size == RECORD_BYTES
    finally:
        os.close(file)


def test_the_turn_of_a_process_that_was_killed_can_be_read() -> None:
    file = os.memfd_create("test")
    child = os.fork()
    if child == 0:
        try:
            TurnMark(file)(Turn(3, 2, 1.5))
        finally:
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    assert read_turn(file) == Turn(3, 2, 1.5)
    os.close(file)


def test_a_turn_is_found_once_at_its_bound_and_the_next_at_twice_the_bound() -> None:
    long = LongTurns(60.0)
    assert long.due == -inf
    first = Turn(7, 2, 100.0)
    assert long.look({0: first}, 110.0) == []
    assert long.due == 160.0
    assert long.look({0: first}, 160.0) == [(0, 60.0)]
    assert long.look({0: first}, 1000.0) == []
    second = Turn(8, 1, 1000.0)
    assert long.look({0: second}, 1060.0) == []
    assert long.due == 1120.0
    assert long.look({0: second}, 1125.0) == [(0, 125.0)]


def test_between_two_turns_nobody_is_found_and_the_next_look_is_a_bound_away() -> None:
    long = LongTurns(60.0)
    assert long.look({0: Turn(7, None, 0.0)}, 500.0) == []
    assert long.due == 560.0
    assert long.look({}, 560.0) == []
    assert long.due == 620.0


@given(
    bound=st.floats(1.0, 100.0),
    lengths=st.lists(st.lists(st.floats(0.01, 300.0), min_size=1, max_size=10), min_size=1, max_size=4),
)
def test_whoever_looks_when_it_is_due_finds_the_turns_that_reach_the_bound_and_looks_seldom(
    bound: float, lengths: list[list[float]]
) -> None:
    """Processes with turns of these lengths, one after the other, and the time goes from one look to the next."""
    ends = [[sum(each[: at + 1]) for at in range(len(each))] for each in lengths]
    long, now, looks, valid, found = LongTurns(bound), 0.0, 0, bound, 0
    while now <= max(each[-1] for each in ends):
        running = {}
        for key, each in enumerate(ends):
            at = next((at for at, end in enumerate(each) if now < end), None)
            if at is not None:
                running[key] = Turn(at + 1, 0, each[at] - lengths[key][at])
        hits = long.look(running, now)
        assert all(seconds == now - running[key].since >= valid - 1e-6 for key, seconds in hits)
        found, looks = found + len(hits), looks + 1
        valid *= 2 if hits else 1
        assert long.due > now
        now = long.due
    total = sum(map(len, lengths))
    assert found <= total
    if max(map(max, lengths)) > bound + 1e-6:
        assert found > 0
    # Each look waits for a bound, or for the end of a bound that began since the last look.
    assert looks <= 2 + len(lengths) * 2 * (total + now / bound)


@pytest.mark.parametrize("bound", [1e300, 1e12])
def test_a_bound_that_no_wait_can_take_still_gives_a_time_to_look(bound: float) -> None:
    long = LongTurns(bound)
    assert long.look({0: Turn(1, 0, 0.0)}, 0.0) == []
    assert long.due == 86400.0
