"""Watching processes that are nobody's children here."""

import os
import queue
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest

from flame_run.launch.sentinels import Sentinels

HOST = socket.gethostname()
Ends = queue.SimpleQueue[tuple[str, int]]


@pytest.fixture
def ends() -> Ends:
    return queue.SimpleQueue()


@pytest.fixture
def sentinels(ends: Ends) -> Iterator[Sentinels]:
    watching = Sentinels(lambda name, pid: ends.put((name, pid)))
    yield watching
    watching.close()
    watching.close()


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    """A process that waits for its standard input to end."""
    with subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE) as process:
        yield process
        process.kill()


def test_the_end_of_a_process_is_told_once_with_its_name(
    sentinels: Sentinels, ends: Ends, sleeper: subprocess.Popen[bytes]
) -> None:
    sentinels.watch("trainer-0", sleeper.pid, HOST)
    sleeper.kill()
    assert ends.get(timeout=30) == ("trainer-0", sleeper.pid)
    assert not sentinels.kill("trainer-0")


def test_even_a_stopped_process_is_killed_by_name(sentinels: Sentinels, ends: Ends, sleeper: subprocess.Popen[bytes]) -> None:
    sentinels.watch("trainer-0", sleeper.pid, HOST)
    os.kill(sleeper.pid, signal.SIGSTOP)
    assert sentinels.kill("trainer-0")
    assert ends.get(timeout=30) == ("trainer-0", sleeper.pid)
    assert sleeper.wait(30) == -signal.SIGKILL


def test_a_process_of_another_machine_or_one_that_is_not_there_is_left_out(sentinels: Sentinels, ends: Ends) -> None:
    gone = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True, check=True)
    sentinels.watch("trainer-0", os.getpid(), f"not-{HOST}")
    sentinels.watch("trainer-1", int(gone.stdout), HOST)
    assert not sentinels.kill("trainer-0")
    assert not sentinels.kill("trainer-1")
    assert ends.empty()
