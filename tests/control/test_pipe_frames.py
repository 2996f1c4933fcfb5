"""Frames on their way into a socket and out of one."""

import socket
import time
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flame_run.control.pipe_frames import MESSAGE, Incoming, Outgoing, OversizedFrame, frame


class Way:
    """A socket's two ends, with frames going out of the one; counts how often its thread was woken."""

    def __init__(self) -> None:
        self.near, self.far = socket.socketpair()
        self.near.setblocking(False)
        self.far.setblocking(False)
        self.woken = 0
        self.outgoing = Outgoing(self.near, self._wake)

    def _wake(self) -> None:
        self.woken += 1

    def read(self) -> bytes:
        """What can be read now."""
        data = b""
        while True:
            try:
                piece = self.far.recv(65536)
            except BlockingIOError:
                return data
            if not piece:
                return data
            data += piece


@pytest.fixture
def way() -> Iterator[Way]:
    made = Way()
    yield made
    made.near.close()
    made.far.close()


def test_what_may_wait_travels_together_and_wakes_the_thread_once(way):
    before = time.monotonic()
    for letter in (b"a", b"b", b"c"):
        way.outgoing.put(letter, may_wait=True)
    assert (way.read(), way.woken) == (b"", 1)
    assert way.outgoing.due >= before
    way.outgoing.flush()
    assert way.read() == b"abc"
    way.outgoing.put(b"d", may_wait=True)
    way.outgoing.flush()
    assert (way.read(), way.woken) == (b"d", 1)
    way.outgoing.flush()
    assert way.outgoing.due is None


def test_what_cannot_wait_takes_along_what_came_before(way):
    way.outgoing.put(b"a", may_wait=True)
    way.outgoing.put(b"b")
    assert way.read() == b"ab"
    assert not way.outgoing.congested


def test_what_the_socket_does_not_take_is_kept_in_order(way):
    large = bytes(range(256)) * 2**14
    way.outgoing.put(large)
    way.outgoing.put(b"after")
    assert way.outgoing.congested
    assert way.woken == 1
    got = b""
    while way.outgoing.congested:
        got += way.read()
        way.outgoing.flush()
    assert got + way.read() == large + b"after"


def test_frames_for_an_end_that_is_gone_are_dropped(way):
    way.far.close()
    way.outgoing.put(b"a")
    way.outgoing.put(b"b", may_wait=True)
    way.outgoing.flush()
    assert not way.outgoing.congested


@given(st.lists(st.tuples(st.integers(0, 255), st.integers(0, 2**32 - 1), st.binary(max_size=50)), max_size=8), st.data())
def test_frames_come_out_as_they_went_in_wherever_the_bytes_are_cut(frames, data):
    stream = b"".join(frame(*each) for each in frames)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=6)))
    incoming = Incoming(50)
    pieces = [stream[start:end] for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    assert [tuple(each) for piece in pieces for each in incoming.feed(piece)] == frames


def test_a_frame_over_the_limit_is_refused_before_its_body_has_come():
    with pytest.raises(OversizedFrame, match=r"a message of 51 bytes \(at most 50\)"):
        list(Incoming(50).feed(frame(MESSAGE, 1, b"x" * 51)[:9]))
