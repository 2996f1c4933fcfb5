import gc
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest
from hydra.core.utils import JobReturn
from omegaconf import DictConfig, OmegaConf

from flame_run.launch.errors import LaunchError, ResultLost, WorkerDied
from flame_run.launch.guard import GuardedTask, Runner
from flame_run.launch.sizing import make_launcher

pytestmark = pytest.mark.filterwarnings("ignore:subprocess .* is still running:ResourceWarning")  # submitit drops its own
Launch = Callable[..., Sequence[JobReturn]]
Gone = Callable[[Sequence[psutil.Process]], None]
GROUP = Path(__file__).parents[2] / "conf" / "launcher"


def make(name: str, workers: int) -> Any:
    loaded = OmegaConf.load(GROUP / f"{name}.yaml")
    assert isinstance(loaded, DictConfig)
    return make_launcher(loaded, workers)


@pytest.fixture(autouse=True)
def nothing_of_submitit_outlives_the_test(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let submitit give up at once on a process that was killed, and drop what it holds within the test."""
    monkeypatch.setattr("submitit.core.core.Job._results_timeout_s", 0)
    yield
    for thread in threading.enumerate():
        if thread.name == "LocalLauncher":
            thread.join(30)
    gc.collect()


@pytest.fixture(params=["joblib", "submitit_local"])
def plugin(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def meet_function() -> Callable[[DictConfig], int]:
    """A function that is pickled by value: the workers cannot import this module."""

    def meet(config: DictConfig) -> int:
        import os
        import socket

        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(60)
            connection.connect("\0" + os.environ["FLAME_RUN_TEST_MEETING"])
            connection.sendall(f'["run", "{config.worker.name}", {os.getpid()}]'.encode())
            connection.recv(1)
        return os.getpid()

    return meet


def test_kill_ends_even_a_stopped_worker_and_the_launch(launch: Launch, meeting: Any, assert_gone: Gone, plugin: str) -> None:
    launcher = make(plugin, 3)
    results: list[JobReturn] = []
    thread = threading.Thread(target=lambda: results.extend(launch(launcher, meet_function(), 3)))
    thread.start()
    workers = [psutil.Process(pid) for pid in meeting.until(3)]
    os.kill(workers[0].pid, signal.SIGSTOP)
    launcher.kill()
    thread.join(30)
    assert not thread.is_alive()
    assert [type(each._return_value) for each in results] == [WorkerDied] * 3
    assert_gone(workers)


def test_no_worker_process_is_left_after_a_launch(
    launch: Launch, meeting: Any, assert_gone: Gone, those_of: Callable[..., Any], plugin: str
) -> None:
    meeting.quorum = 3
    results = launch(make(plugin, 3), meet_function(), 3)
    assert_gone(those_of(each.return_value for each in results))


def test_a_killed_joblib_worker_is_an_error_of_the_launch(launch: Launch, meeting: Any, assert_gone: Gone) -> None:
    errors: list[BaseException] = []
    launcher = make("joblib", 3)

    def body() -> None:
        try:
            launch(launcher, meet_function(), 3)
        except LaunchError as error:
            errors.append(error)

    thread = threading.Thread(target=body)
    thread.start()
    workers = [psutil.Process(pid) for pid in meeting.until(3)]
    workers[1].kill()
    thread.join(60)
    assert "JoblibLauncher gave up: TerminatedWorkerError" in str(errors[0])
    assert_gone(workers)


def test_an_exception_that_cannot_be_pickled_comes_back_as_text(launch: Launch, plugin: str) -> None:
    def work(config: DictConfig) -> None:
        import threading

        class Odd(Exception):
            pass

        error = Odd("holds a lock")
        error.lock = threading.Lock()  # type: ignore[attr-defined]
        raise error

    error = launch(make(plugin, 2), work, 2)[1]._return_value
    assert isinstance(error, ResultLost)
    assert "holds a lock" in str(error)


def test_a_worker_that_starts_after_the_launch_was_called_off_ends_at_once(tmp_path: Path) -> None:
    elsewhere = Runner(host=Runner.this().host, pid=os.getppid(), created=psutil.Process(os.getppid()).create_time())
    task = GuardedTask(task=lambda _: 1, runner=elsewhere, path=(), environment={}, flag=tmp_path / "gone")
    with pytest.raises(WorkerDied, match="called off"):
        task(OmegaConf.create())
