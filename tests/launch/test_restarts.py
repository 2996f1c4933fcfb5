"""`LocalLauncher` that is held: single workers are killed and started again while the others go on."""

import os
import queue
import threading
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import DictConfig

from flame_run.launch.local import LocalLauncher

Launch = Callable[..., Sequence[JobReturn]]


def meet(config: DictConfig) -> int:
    import socket

    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(60)
        connection.connect("\0" + os.environ["FLAME_RUN_TEST_MEETING"])
        connection.sendall(f'["run", "{config.worker.name}", {os.getpid()}]'.encode())
        connection.recv(1)
    return os.getpid()


class Held:
    """A launch that lasts until it is released; `seen` tells what the processes do."""

    def __init__(self, launch: Launch, task: Callable[[Any], Any], workers: int) -> None:
        self.seen: queue.SimpleQueue[tuple[int, str]] = queue.SimpleQueue()
        self.launcher = LocalLauncher(preload=[], observer=lambda index, _, what: self.seen.put((index, what)))
        self.launcher.hold()
        self.results: list[JobReturn] = []
        self._thread = threading.Thread(target=lambda: self.results.extend(launch(self.launcher, task, workers)))
        self._thread.start()

    def await_all(self, *expected: tuple[int, str]) -> None:
        """Wait until all of `expected` were seen, in any order."""
        left = list(expected)
        while left:
            left.remove(self.seen.get(timeout=30))

    def end(self) -> None:
        """Wait for the end of the launch."""
        self._thread.join(30)
        assert not self._thread.is_alive()


@pytest.fixture
def held(launch: Launch) -> Any:
    made: list[Held] = []

    def make(task: Callable[[Any], Any], workers: int) -> Held:
        made.append(Held(launch, task, workers))
        return made[-1]

    yield make
    for each in made:
        each.launcher.kill()
        each.end()


def test_a_killed_worker_is_started_again_while_the_others_go_on(held: Any, meeting: Any) -> None:
    run = held(meet, 3)
    first = meeting.until(3)
    run.await_all(*((index, "started") for index in range(3)))
    run.launcher.kill_one(1)
    run.await_all((1, "killed by SIGKILL"))
    run.launcher.restart(1)
    run.await_all((1, "started"))
    (pid,) = set(meeting.until(4)) - set(first)
    assert [name for _, name, _ in meeting.arrived].count("w-1") == 2
    meeting.close()
    run.await_all(*((index, "exit 0") for index in range(3)))
    run.launcher.release()
    run.end()
    assert [each.status for each in run.results] == [JobStatus.COMPLETED] * 3
    assert run.results[1].return_value == pid


def test_a_worker_can_be_started_again_when_no_other_is_left(held: Any) -> None:
    run = held(lambda config: config.worker.name, 1)
    for _ in range(3):
        run.await_all((0, "started"), (0, "exit 0"))
        run.launcher.restart(0)
    run.await_all((0, "started"), (0, "exit 0"))
    run.launcher.release()
    run.end()
    assert [each.return_value for each in run.results] == ["w-0"]


def test_a_kill_ends_a_held_launch_and_nothing_is_started_after_it(held: Any, meeting: Any) -> None:
    run = held(meet, 2)
    meeting.until(2)
    run.launcher.kill()
    run.launcher.restart(0)
    run.end()
    assert [each.status for each in run.results] == [JobStatus.FAILED] * 2
    run.launcher.restart(0)
    run.launcher.kill_one(0)
    run.launcher.release()


def test_a_launch_that_is_released_early_ends_with_its_last_worker(held: Any, meeting: Any) -> None:
    run = held(meet, 2)
    meeting.until(2)
    run.launcher.release()
    meeting.close()
    run.end()
    assert [each.status for each in run.results] == [JobStatus.COMPLETED] * 2


def test_the_end_of_the_fork_server_ends_a_held_launch(held: Any, meeting: Any) -> None:
    import psutil

    run = held(meet, 1)
    server = psutil.Process(meeting.until(1)[0]).parent()
    assert server is not None
    server.kill()
    run.end()
    assert [each.status for each in run.results] == [JobStatus.FAILED]
