"""A short run of the fuzzer over everything that reads bytes of the network; `make fuzz` is the long one."""

import logging
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flame_run.control import wire
from tests.fuzz.engine import Target, fuzz, problem_of
from tests.fuzz.targets import TARGETS, pieces, together

INPUTS = 250


@pytest.fixture(scope="module", autouse=True)
def quiet() -> Iterator[None]:
    """Refusals are what is asked for, and torch shares the machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)
    torch.set_num_threads(threads)


@pytest.fixture(scope="module", params=sorted(TARGETS))
def target(request: pytest.FixtureRequest) -> Target:
    return made(request.param)


def made(name: str) -> Target:
    """A target whose time is not that of a machine that has other work too; `make fuzz` keeps to the seconds of each."""
    return replace(TARGETS[name](), seconds=60.0)


def test_what_is_known_and_what_is_made_of_it_breaks_nothing(target: Target) -> None:
    report = fuzz(target, seed=20, inputs=INPUTS)
    assert report.findings == [], report.findings[0].what
    assert report.inputs == INPUTS
    assert report.lines > 5, "the target reaches nothing of this project"


@settings(max_examples=80, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
@given(data=st.one_of(st.binary(max_size=300), st.lists(st.binary(max_size=60), max_size=8).map(lambda parts: together(*parts))))
def test_bytes_of_any_kind_break_nothing(target: Target, data: bytes) -> None:
    assert problem_of(target, data) is None


@given(st.lists(st.binary(max_size=300), max_size=6))
def test_pieces_that_were_put_together_come_apart_again(parts: list[bytes]) -> None:
    assert list(pieces(together(*parts))) == parts


# ---- what fuzzing has found, and stays repaired

FOUND = {
    "bundle": [together(b"[" * 3000, b"token")],
    "certificate": [b"\xff" + b"9" * 10_200],
    "order": [together(b"\xff\xff no order"), together(wire.part({}, 0.0))],
}


@pytest.mark.parametrize(("name", "data"), [(name, each) for name, found in FOUND.items() for each in found])
def test_inputs_that_broke_something_once_are_refused_now(name: str, data: bytes) -> None:
    assert problem_of(made(name), data) is None
