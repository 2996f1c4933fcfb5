"""The fuzzer finds what it is there to find."""

import random
import signal
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz.engine import LONGEST, Mutator, Target, fuzz, problem_of, varint
from transports import wire_pb2
from transports.base import Limits
from transports.errors import ProtocolError
from transports.grpc_channel.frames import parse_frame


def target(run, *seeds: bytes, **bounds) -> Target:
    return Target(name="planted", run=run, seeds=seeds, **bounds)


def test_an_error_that_nobody_declared_is_a_crash():
    def run(data: bytes) -> None:
        if b"\xff" in data:
            raise ValueError("planted")

    report = fuzz(target(run, b"abc"), seed=1, inputs=5000)
    assert report.findings
    assert all("crash" in each.what and "planted" in each.what and b"\xff" in each.data for each in report.findings)


def test_what_does_not_end_is_a_hang_and_the_alarm_is_put_back():
    before = signal.getsignal(signal.SIGALRM)
    found = problem_of(target(lambda _: threading.Event().wait(), seconds=0.2), b"")
    assert found is not None
    assert found.startswith("hang: not done after 0.2 s")
    assert signal.getsignal(signal.SIGALRM) is before


def test_a_small_input_that_takes_much_memory_is_found():
    found = problem_of(target(lambda data: bytearray(b"x") * (len(data) << 20), megabytes=64), bytes(600))
    assert found is not None
    assert found.startswith("memory: ")


def test_a_run_is_the_same_for_the_same_seed():
    def inputs(seed: int) -> list[bytes]:
        seen: list[bytes] = []
        fuzz(target(seen.append, b"abcdefgh", b"12345678"), seed=seed, inputs=200)
        return seen

    assert inputs(3) == inputs(3)
    assert inputs(3) != inputs(4)


def test_inputs_that_reach_new_lines_are_kept():
    def run(data: bytes) -> None:
        try:
            parse_frame(data, Limits())
        except ProtocolError:
            return

    seed = wire_pb2.Frame(fetch=wire_pb2.Fetch(id=1)).SerializeToString()
    report = fuzz(target(run, seed), seed=1, inputs=2000)
    assert report.kept > 1
    assert report.lines > 5


@given(st.integers(0, 2**32), st.binary(max_size=200), st.binary(max_size=200))
def test_an_input_is_never_longer_than_it_may(seed: int, data: bytes, other: bytes):
    mutator = Mutator(random.Random(seed))
    for _ in range(20):
        data = mutator.mutate(data, other)
        assert len(data) <= LONGEST


@pytest.mark.parametrize("number", [0, 1, 127, 128, 300, 2**32, 2**64 - 1])
def test_numbers_are_written_as_protobuf_writes_them(number: int):
    assert varint(number) == wire_pb2.Fetch(id=number).SerializeToString()[1:] or number == 0
