"""Availability traces."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roles.selectors.availability import available, parse, read
from roles.selectors.choice import PowerOfChoice
from roles.selectors.report import LossReport
from roles.selectors.selector import EmptySelection
from roles.selectors.trace import Trace
from roles.selectors.uniform import Random
from tests.selectors.reports import ENDS, about, begun, report

INTERVALS = {"trainer-0": [[1, 2], [5, None]], "trainer-1": [3], "trainer-2": []}


@given(st.lists(st.tuples(st.integers(1, 20), st.integers(0, 5)), max_size=4), st.integers(1, 30))
def test_a_worker_is_there_in_its_intervals_and_in_no_other_round(pairs: list[tuple[int, int]], round: int) -> None:
    trace = parse({"a": [[first, first + more] for first, more in pairs]})
    there = any(round in range(first, first + more + 1) for first, more in pairs)
    assert available(trace, "a", round, unlisted=True) == there


def test_only_those_who_are_there_are_asked() -> None:
    selector = begun(Trace(intervals=INTERVALS))
    expected = {1: (0, 3), 2: (0, 3), 3: (1, 3), 4: (3,), 5: (0, 3), 99: (0, 3)}
    for round, indices in expected.items():
        assert selector.select(round, ENDS[:4]).ends == tuple(ENDS[index] for index in indices)


def test_workers_that_the_trace_does_not_name_can_be_away_instead() -> None:
    assert begun(Trace(intervals=INTERVALS, unlisted=False)).select(1, ENDS).ends == ("trainer-0",)


def test_a_round_in_which_nobody_is_there_is_an_error_that_says_so() -> None:
    selector = begun(Trace(intervals=INTERVALS))
    with pytest.raises(EmptySelection, match="round 4: by the trace none of trainer-0, trainer-1, trainer-2 is") as caught:
        selector.select(4, ENDS[:3])
    assert caught.value.lost


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("trace.json", '{"trainer-0": [[1, 2], [5, null]], "trainer-1": [3], "trainer-2": []}'),
        ("trace.csv", "worker,first,last\ntrainer-0,1,2\n\ntrainer-0, 5 ,\ntrainer-1,3,3\ntrainer-2,,\n"),
    ],
)
def test_a_trace_can_be_a_file(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    assert read(tmp_path / name) == parse(INTERVALS)
    selector = Trace(file=str(tmp_path / name))
    selector.begin(about())
    assert selector.select(3, ENDS[:3]).ends == ("trainer-1",)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("trace.json", "{", "is not JSON"),
        ("trace.json", "[1]", "must map workers"),
        ("trace.json", '{"a": "1-5"}', "must be a list of intervals"),
        ("trace.csv", "name,from,to\n", "must begin with the line worker,first,last"),
        ("trace.csv", "worker,first,last\na,1\n", "line 2: 2 fields instead of 3"),
        ("trace.csv", "worker,first,last\na,one,2\n", r"trace\.csv\.a must hold intervals"),
        ("trace.csv", "worker,first,last\na,3,2\n", r"trace\.csv\.a must hold intervals"),
        ("none.csv", None, "cannot be read"),
    ],
)
def test_a_file_that_is_no_trace_is_refused_with_its_name(tmp_path: Path, name: str, text: str | None, message: str) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=message) as caught:
        read(tmp_path / name)
    assert name in str(caught.value)


@pytest.mark.parametrize("bad", [[0], [[2, 1]], [[1, 2, 3]], ["ab"], [True], [[1.5, 2]], [[None, 2]], 3])
def test_intervals_that_are_none_are_refused(bad: Any) -> None:
    with pytest.raises(ValueError, match=r"selector\.intervals\.a must"):
        Trace(intervals={"a": bad})


def test_either_intervals_or_a_file_is_needed() -> None:
    for arguments in ({}, {"intervals": {}, "file": "trace.csv"}):
        with pytest.raises(ValueError, match="and not both"):
            Trace(**arguments)  # type: ignore[arg-type]


def test_another_selector_chooses_among_those_who_are_there() -> None:
    outer, inner = begun(Trace(intervals=INTERVALS, inner=Random(k=2)), 5), begun(Random(k=2), 5)
    there = [end for end in ENDS if end not in ("trainer-1", "trainer-2")]
    for round in (5, 6, 7):
        assert outer.select(round, ENDS) == inner.select(round, there)


def test_what_is_heard_and_remembered_is_the_inner_selectors() -> None:
    outer = begun(Trace(intervals={}, inner=PowerOfChoice(m=1, d=2)))
    for end, loss in zip(ENDS[:2], (1.0, 2.0), strict=True):
        outer.heard(report(end, 1, [loss]))
    assert outer.select(2, ENDS[:2]).ends == (ENDS[1],)
    again = begun(Trace(intervals={}, inner=PowerOfChoice(m=1, d=2)))
    again.load_state_dict(outer.state_dict())
    assert again.select(2, ENDS[:2]).ends == (ENDS[1],)
    assert isinstance(outer.client(), LossReport)
    assert Trace(intervals={}).client() is None
