import random
import threading
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flame_run.launch.baton import Baton
from flame_run.launch.errors import WorkerDied
from flame_run.launch.turns import Turn


def draws(seed: int, count: int, between: Callable[[], None]) -> list[float]:
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - users still draw from it
    torch.manual_seed(seed)
    numbers: list[float] = []
    for _ in range(count):
        numbers += [random.random(), float(np.random.rand()), float(torch.rand(()))]  # noqa: NPY002
        between()
    return numbers


def run_all(bodies: list[Callable[[], None]]) -> None:
    threads = [threading.Thread(target=body) for body in bodies]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()


@settings(deadline=None, max_examples=20)
@given(seeds=st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=4), count=st.integers(1, 5))
def test_interleaved_draws_equal_draws_alone(seeds: list[int], count: int) -> None:
    alone = [draws(seed, count, lambda: None) for seed in seeds]
    baton = Baton()
    together: list[list[float]] = [[] for _ in seeds]

    def body(place: int) -> None:
        def wait() -> None:
            with baton.released():
                pass

        with baton.held():
            together[place] = draws(seeds[place], count, wait)

    run_all([lambda place=place: body(place) for place in range(len(seeds))])  # type: ignore[misc]
    assert together == alone


def test_only_the_holder_runs() -> None:
    baton = Baton()
    inside: list[int] = []
    overlaps: list[int] = []

    def body(me: int) -> None:
        with baton.held():
            for _ in range(50):
                inside.append(me)
                if len(inside) > 1:
                    overlaps.append(me)
                inside.remove(me)
                with baton.released():
                    pass

    run_all([lambda me=me: body(me) for me in range(5)])  # type: ignore[misc]
    assert overlaps == []


def test_threads_get_their_turns_in_the_order_they_asked() -> None:
    baton = Baton()
    order: list[int] = []
    in_line = [threading.Event() for _ in range(4)]
    threads = []

    def body(me: int) -> None:
        with baton.held(on_line=in_line[me].set):
            order.append(me)
            with baton.released():
                pass
            order.append(me)

    with baton.held():
        for me in range(4):
            threads.append(threading.Thread(target=body, args=(me,)))
            threads[-1].start()
            assert in_line[me].wait(30)
    for thread in threads:
        thread.join(30)
    assert order[0] == 0
    assert sorted(order) == [0, 0, 1, 1, 2, 2, 3, 3]


def test_a_thread_that_does_not_hold_the_baton_cannot_release_it() -> None:
    baton = Baton()
    with pytest.raises(RuntimeError, match="does not hold the baton"), baton.released():
        pass


def test_after_the_baton_is_broken_every_turn_begins_with_the_reason() -> None:
    baton = Baton()
    seen: list[str] = []
    in_line = threading.Event()

    def body() -> None:
        try:
            with baton.held(on_line=in_line.set):
                seen.append("ran")
        except WorkerDied as error:
            seen.append(str(error))

    thread = threading.Thread(target=body)
    with pytest.raises(WorkerDied, match="told to stop"), baton.held():  # noqa: PT012 - the whole turn is what raises
        thread.start()
        assert in_line.wait(30)
        baton.break_off("told to stop")
        assert seen == [], "the holder still runs alone"
        with baton.released():
            thread.join(30)
    assert seen == ["told to stop"]


def test_an_error_inside_a_release_comes_out_with_the_baton_held_again() -> None:
    baton = Baton()
    with baton.held():
        with pytest.raises(KeyError), baton.released():
            raise KeyError("from the wait")
        with baton.released():
            pass


def test_a_baton_knows_who_holds_it_and_counts_turns() -> None:
    baton = Baton()
    me = threading.get_ident()
    seen = [baton.turn]
    with baton.held():
        seen.append(baton.turn)
        with baton.released():
            seen.append(baton.turn)
        seen.append(baton.turn)
    seen.append(baton.turn)
    assert seen == [(0, None), (1, me), (1, None), (2, me), (2, None)]


def test_each_turn_is_marked_when_it_begins_and_when_it_is_over() -> None:
    marks: list[Turn] = []
    baton = Baton(mark=marks.append)
    in_line = threading.Event()

    def second() -> None:
        with baton.held(on_line=in_line.set):
            pass

    thread = threading.Thread(target=second)
    with baton.held():
        assert baton.current == marks[0]._replace(who=threading.get_ident())
        thread.start()
        assert in_line.wait(60)
        with baton.released():
            thread.join(60)
    assert baton.current == marks[-1]
    assert [(turn.number, turn.who) for turn in marks] == [(1, 0), (1, None), (2, 1), (2, None), (3, 0), (3, None)]
    assert [turn.since for turn in marks] == sorted(turn.since for turn in marks)
