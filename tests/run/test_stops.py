"""Workers that share a process and were told to stop."""

import threading
from collections.abc import Callable, Iterator

import pytest

from flame_run.launch.baton import Baton
from flame_run.run.stops import Stops

SOON, NEVER = 0.01, 1e6
"""Seconds."""


class Looked(Baton):
    """A baton that tells how often somebody asked whose turn it is."""

    def __init__(self) -> None:
        super().__init__(())
        self.looks = threading.Semaphore(0)

    @property
    def turn(self) -> tuple[int, int | None]:
        self.looks.release()
        return super().turn


class Process:
    """Workers in threads with one baton; `ended` holds why the process would have been ended by force."""

    def __init__(self, *, grace: float) -> None:
        self.baton = Looked()
        self.stops = Stops(self.baton, self._end, grace=grace)
        self.over = threading.Event()
        self.ended: list[str] = []
        self._threads: list[threading.Thread] = []

    def _end(self, why: str) -> None:
        self.ended.append(why)
        self.over.set()

    def begin(self, worker: str, body: Callable[[], object]) -> threading.Thread:
        """Let `worker` do `body` once it has the baton; returns when it has."""
        here = threading.Event()

        def run() -> None:
            with self.baton.held(), self.stops.attended(worker):
                here.set()
                body()

        self._threads.append(threading.Thread(target=run))
        self._threads[-1].start()
        assert here.wait(30)
        return self._threads[-1]

    def wait_for(self, event: threading.Event) -> Callable[[], object]:
        """A body that lets others run while it waits."""

        def body() -> None:
            with self.baton.released():
                assert event.wait(60)

        return body

    def join(self) -> None:
        """Wait for the end of all threads, those that watch too."""
        watching = [thread for thread in threading.enumerate() if thread.name == "flame-run stops"]
        for thread in [*self._threads, *watching]:
            thread.join(60)
            assert not thread.is_alive()


@pytest.fixture
def end() -> Iterator[threading.Event]:
    """Ends what the workers of a test wait for."""
    event = threading.Event()
    yield event
    event.set()


@pytest.mark.parametrize("body", ["holds the baton", "waits"])
def test_a_process_ends_when_all_were_told_and_one_stays(body: str, end: threading.Event) -> None:
    process = Process(grace=SOON)
    process.begin("gone", lambda: None)
    process.begin("stays", (lambda: end.wait(60)) if body == "holds the baton" else process.wait_for(end))
    process.stops.tell("gone", NEVER)
    process.stops.tell("stays", NEVER)
    assert process.over.wait(30)
    assert process.ended == ["stays did not stop"]
    end.set()
    process.join()


def test_a_process_goes_on_when_those_who_were_told_stop_in_time(end: threading.Event) -> None:
    process = Process(grace=NEVER)
    for name in ("first", "second"):
        process.begin(name, process.wait_for(end))
        process.stops.tell(name, NEVER)
    end.set()
    process.join()
    assert process.ended == []


def test_one_who_lingers_beside_others_that_go_on_does_not_end_the_process(end: threading.Event) -> None:
    process, late = Process(grace=SOON), threading.Event()
    lingers = process.begin("lingers", process.wait_for(late))
    process.begin("goes on", process.wait_for(end))
    process.stops.tell("lingers", NEVER)
    for _ in range(5):
        assert process.baton.looks.acquire(timeout=30)
    late.set()
    lingers.join(60)
    end.set()
    process.join()
    assert process.ended == []


def test_one_who_was_told_and_keeps_the_baton_for_good_ends_the_process(end: threading.Event) -> None:
    process = Process(grace=SOON)
    process.begin("waits", process.wait_for(end))
    process.begin("hangs", lambda: end.wait(60))
    process.stops.tell("hangs", SOON)
    assert process.over.wait(30)
    assert process.ended == ["hangs did not stop"]
    end.set()
    process.join()


def test_alone_in_a_process_only_the_grace_counts(end: threading.Event) -> None:
    ended = threading.Event()
    stops = Stops(None, lambda _: ended.set(), grace=SOON)
    with stops.attended("alone"):
        stops.tell("alone", NEVER)
        assert ended.wait(30)
