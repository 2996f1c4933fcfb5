"""`LocalLauncher` with real processes; the fork server imports nothing heavy here."""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import DictConfig

from flame_run.launch.errors import LaunchError, ResultLost, WorkerDied
from flame_run.launch.forking import warm
from flame_run.launch.forkserver import SERVERS
from flame_run.launch.local import LocalLauncher

Launch = Callable[..., Sequence[JobReturn]]
Gone = Callable[[Sequence[psutil.Process]], None]
Those = Callable[[Iterable[int]], list[psutil.Process]]


def bare(**options: Any) -> LocalLauncher:
    return LocalLauncher(preload=[], **options)


def meet(config: DictConfig) -> int:
    import socket

    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(60)
        connection.connect("\0" + os.environ["FLAME_RUN_TEST_MEETING"])
        connection.sendall(f'["run", "{config.worker.name}", {os.getpid()}]'.encode())
        connection.recv(1)
    return os.getpid()


def in_thread(body: Callable[[], Sequence[JobReturn]]) -> tuple[threading.Thread, list[JobReturn]]:
    results: list[JobReturn] = []
    thread = threading.Thread(target=lambda: results.extend(body()))
    thread.start()
    return thread, results


def server_of(pid: int) -> psutil.Process:
    parent = psutil.Process(pid).parent()
    assert parent is not None
    return parent


def test_each_worker_has_its_own_process_name_and_folder(launch: Launch, tmp_path: Path) -> None:
    def work(config: DictConfig) -> Any:
        from hydra.core.hydra_config import HydraConfig

        job = HydraConfig.get().job
        return config.worker.name, os.getpid(), HydraConfig.get().runtime.output_dir, job.num, config.worker.rendezvous, config.rate

    results = launch(bare(), work, 3, ["rate=0.125"])
    values = [each.return_value for each in results]
    assert [value[0] for value in values] == ["w-0", "w-1", "w-2"]
    assert len({value[1] for value in values} | {os.getpid()}) == 4
    assert [value[2] for value in values] == [str(tmp_path / "run" / name) for name in ("w-0", "w-1", "w-2")]
    assert [value[3] for value in values] == [0, 1, 2]
    assert {value[4] for value in values} == {str(tmp_path / "a file, = with ${odd} 'marks'")}
    assert {value[5] for value in values} == {0.125}
    assert [each.overrides[-1] for each in results if each.overrides] == [f"worker.name='{name}'" for name in ("w-0", "w-1", "w-2")]


def test_a_worker_finds_environment_folder_and_import_path_of_the_launch(
    launch: Launch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    warm([])
    monkeypatch.setenv("SET_AFTER_WARM", "yes")
    monkeypatch.setenv("HOME", "/elsewhere")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))

    def work(config: DictConfig) -> Any:
        return dict(os.environ), str(Path.cwd()), list(sys.path)

    environment, folder, path = launch(bare(), work, 1)[0].return_value
    assert environment == dict(os.environ)
    assert folder == str(tmp_path)
    assert path == sys.path


def test_thirty_workers_run_at_the_same_time(launch: Launch, meeting: Any) -> None:
    meeting.quorum = 30
    results = launch(bare(), meet, 30)
    assert len({each.return_value for each in results}) == 30


def test_forty_short_jobs_come_back_in_order(launch: Launch) -> None:
    results = launch(bare(), lambda config: config.worker.name, 40)
    assert [each.return_value for each in results] == [f"w-{i}" for i in range(40)]


def test_the_observer_hears_of_every_start_and_end(launch: Launch) -> None:
    def work(config: DictConfig) -> int:
        if config.worker.name == "w-1":
            sys.exit(3)
        if config.worker.name == "w-2":
            os.kill(os.getpid(), signal.SIGTERM)
        return os.getpid()

    seen: list[tuple[int, int, str]] = []
    results = launch(bare(observer=lambda *what: seen.append(what)), work, 3)
    assert sorted((index, what) for index, _, what in seen) == [
        (0, "exit 0"),
        (0, "started"),
        (1, "exit 3"),
        (1, "started"),
        (2, "killed by SIGTERM"),
        (2, "started"),
    ]
    assert {pid for index, pid, _ in seen if index == 0} == {results[0].return_value}


def test_an_exception_comes_back_with_the_traceback_of_the_worker(launch: Launch) -> None:
    def work(config: DictConfig) -> None:
        raise ValueError(f"no luck in {config.worker.name}")

    result = launch(bare(), work, 2)[1]
    assert result.status is JobStatus.FAILED
    with pytest.raises(ValueError, match="no luck in w-1") as caught:
        _ = result.return_value
    assert "Traceback" in caught.value.__notes__[0]


def test_an_exception_that_cannot_be_pickled_comes_back_as_text(launch: Launch) -> None:
    class Odd(Exception):
        def __init__(self, lock: Any, text: str) -> None:
            super().__init__(text)
            self.lock = lock

    def work(config: DictConfig) -> None:
        raise Odd(threading.Lock(), "holds a lock")

    error = launch(bare(), work, 1)[0]._return_value
    assert isinstance(error, ResultLost)
    assert "holds a lock" in str(error)
    assert "Traceback" in str(error)


def test_an_exception_that_cannot_be_read_back_comes_back_as_text(launch: Launch) -> None:
    class Picky(Exception):
        def __init__(self, first: int, second: int) -> None:
            super().__init__(f"{first} and {second}")

    def work(config: DictConfig) -> None:
        raise Picky(1, 2)

    error = launch(bare(), work, 1)[0]._return_value
    assert isinstance(error, ResultLost)
    assert "1 and 2" in str(error)


def test_a_result_that_cannot_be_pickled_fails_the_job(launch: Launch) -> None:
    result = launch(bare(), lambda _: threading.Lock(), 1)[0]
    assert result.status is JobStatus.FAILED
    assert isinstance(result._return_value, ResultLost)


@pytest.mark.parametrize(("code", "status"), [(0, "exit 0"), (3, "exit 3"), ("because", "exit 1")])
def test_sys_exit_fails_the_job_with_its_code(launch: Launch, code: int | str, status: str) -> None:
    seen: list[str] = []

    def work(config: DictConfig) -> None:
        sys.exit(code)

    error = launch(bare(observer=lambda _index, _pid, what: seen.append(what)), work, 1)[0]._return_value
    assert isinstance(error, WorkerDied)
    assert repr(code) in str(error)
    assert seen == ["started", status]


def test_a_worker_killed_from_outside_is_known_while_the_others_go_on(launch: Launch, meeting: Any) -> None:
    ended = threading.Event()
    seen: list[tuple[int, str]] = []

    def observe(index: int, pid: int, what: str) -> None:
        seen.append((index, what))
        if what == "killed by SIGKILL":
            ended.set()

    launcher = bare(observer=observe)
    thread, results = in_thread(lambda: launch(launcher, meet, 3))
    meeting.until(3)
    victim = next(pid for _, name, pid in meeting.arrived if name == "w-1")
    os.kill(victim, signal.SIGKILL)
    assert ended.wait(30)
    assert (0, "exit 0") not in seen
    meeting.close()
    thread.join(30)
    assert [each.status for each in results] == [JobStatus.COMPLETED, JobStatus.FAILED, JobStatus.COMPLETED]
    assert isinstance(results[1]._return_value, WorkerDied)
    assert f"w-1 (process {victim}): killed by SIGKILL" in str(results[1]._return_value)


def test_kill_ends_even_a_stopped_worker_and_what_it_started(launch: Launch, meeting: Any, assert_gone: Gone) -> None:
    def work(config: DictConfig) -> None:
        import subprocess

        subprocess.Popen(["sleep", "600"])
        meet(config)

    launcher = bare()
    thread, results = in_thread(lambda: launch(launcher, work, 3))
    workers = [psutil.Process(pid) for pid in meeting.until(3)]
    children = [child for worker in workers for child in worker.children()]
    assert len(children) == 3
    os.kill(workers[0].pid, signal.SIGSTOP)
    launcher.kill()
    thread.join(30)
    assert not thread.is_alive()
    assert all(isinstance(each._return_value, WorkerDied) for each in results)
    assert_gone([*workers, *children])


def test_a_worker_that_ends_leaves_no_process_behind(launch: Launch, assert_gone: Gone, those_of: Those) -> None:
    def work(config: DictConfig) -> int:
        import subprocess

        return subprocess.Popen(["sleep", "600"]).pid

    assert_gone(those_of(each.return_value for each in launch(bare(), work, 2)))


def test_a_killed_launcher_starts_nothing_any_more(launch: Launch) -> None:
    seen: list[str] = []
    launcher = bare(observer=lambda _index, _pid, what: seen.append(what))
    launcher.kill()
    results = launch(launcher, lambda _: 1, 3)
    assert seen == []
    assert ["never started" in str(each._return_value) for each in results] == [True] * 3


def test_kill_while_the_fork_server_imports_returns_at_once(
    launch: Launch, meeting: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, assert_gone: Gone
) -> None:
    make_blocking_module(tmp_path, monkeypatch)
    launcher = LocalLauncher(preload=["blocks_at_import"])
    thread, results = in_thread(lambda: launch(launcher, lambda _: 1, 2))
    server = psutil.Process(meeting.until(1)[0])
    launcher.kill()
    thread.join(30)
    assert not thread.is_alive()
    assert [each.status for each in results] == [JobStatus.FAILED] * 2
    assert_gone([server])


def make_blocking_module(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "blocks_at_import.py").write_text(
        "import os, socket\n"
        "s = socket.socket(socket.AF_UNIX)\n"
        "s.connect('\\0' + os.environ['FLAME_RUN_TEST_MEETING'])\n"
        's.sendall(f\'["run", "server", {os.getpid()}]\'.encode())\n'
        "s.recv(1)\n"
    )
    monkeypatch.syspath_prepend(str(folder))


def test_imports_that_take_too_long_end_with_an_error_that_names_them(
    launch: Launch, meeting: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_blocking_module(tmp_path, monkeypatch)
    with pytest.raises(LaunchError, match=r"has not imported blocks_at_import within import_timeout = 0\.5 s"):
        launch(LocalLauncher(preload=["blocks_at_import"], import_timeout=0.5), lambda _: 1, 2)


def test_an_import_that_fails_is_reported_with_its_traceback(launch: Launch) -> None:
    with pytest.raises(LaunchError, match="No module named 'flame_run_has_no_such_module'"):
        launch(LocalLauncher(preload=["flame_run_has_no_such_module"]), lambda _: 1, 2)


def test_a_killed_fork_server_takes_its_workers_with_it(launch: Launch, meeting: Any, assert_gone: Gone) -> None:
    launcher = bare()
    thread, results = in_thread(lambda: launch(launcher, meet, 3))
    workers = [psutil.Process(pid) for pid in meeting.until(3)]
    server_of(workers[0].pid).kill()
    thread.join(30)
    assert ["fork server ended: killed by SIGKILL" in str(each._return_value) for each in results] == [True] * 3
    assert_gone(workers)


def test_two_launches_in_a_row_use_one_fork_server(launch: Launch) -> None:
    parents = [launch(bare(), lambda _: os.getppid(), 2)[0].return_value for _ in range(2)]
    assert parents[0] == parents[1]


def test_a_launch_after_the_fork_server_died_starts_another(launch: Launch, assert_gone: Gone) -> None:
    first = psutil.Process(launch(bare(), lambda _: os.getppid(), 1)[0].return_value)
    first.kill()
    assert_gone([first])
    second = launch(bare(), lambda _: os.getppid(), 1)[0]
    assert second.return_value != first.pid


def test_two_launches_at_once_have_a_fork_server_each(launch: Launch, meeting: Any) -> None:
    runs = [in_thread(lambda: launch(bare(), meet, 2)) for _ in range(2)]
    assert len({server_of(pid).pid for pid in meeting.until(4)}) == 2
    meeting.close()
    for thread, results in runs:
        thread.join(30)
        assert [each.status for each in results] == [JobStatus.COMPLETED] * 2


def test_shutdown_leaves_no_process(launch: Launch, assert_gone: Gone) -> None:
    launcher = bare()
    server = psutil.Process(launch(launcher, lambda _: os.getppid(), 2)[0].return_value)
    launcher.shutdown()
    assert_gone([server])


def test_warming_twice_starts_one_server() -> None:
    warm([])
    first = SERVERS.take([])
    SERVERS.put(first)
    warm([])
    assert SERVERS.take([]) is first
    SERVERS.put(first)


def test_workers_have_process_groups_of_their_own(launch: Launch) -> None:
    results = launch(bare(), lambda _: (os.getpid(), os.getpgrp()), 2)
    assert [pid == group for pid, group in (each.return_value for each in results)] == [True, True]


def test_a_worker_may_have_child_processes_of_multiprocessing(launch: Launch) -> None:
    def work(config: DictConfig) -> list[int]:
        import multiprocessing

        with multiprocessing.get_context("fork").Pool(2) as pool:
            return pool.map(abs, [-1, -2])

    assert launch(bare(), work, 1)[0].return_value == [1, 2]


def test_exit_functions_run_and_threads_are_awaited_at_the_end_of_a_worker(launch: Launch, tmp_path: Path) -> None:
    def work(config: DictConfig) -> None:
        import atexit

        atexit.register((tmp_path / "at-exit").touch)
        started = threading.Event()

        def late() -> None:
            started.set()
            threading.main_thread().join(0.2)
            (tmp_path / "thread").touch()

        threading.Thread(target=late).start()
        started.wait()

    launch(bare(), work, 1)
    assert (tmp_path / "at-exit").exists()
    assert (tmp_path / "thread").exists()


def test_an_observer_that_raises_ends_the_launch_and_its_workers(launch: Launch, assert_gone: Gone, those_of: Those) -> None:
    pids: list[int] = []

    def observe(index: int, pid: int, what: str) -> None:
        pids.append(pid)
        raise KeyError("from the observer")

    def work(config: DictConfig) -> None:
        threading.Event().wait()

    with pytest.raises(KeyError, match="from the observer"):
        launch(bare(observer=observe), work, 2)
    assert_gone(those_of(pids))


def test_the_default_imports_leave_torch_and_grpc_usable_in_every_worker(launch: Launch) -> None:
    def work(config: DictConfig) -> tuple[float, int]:
        loaded = {"torch", "lightning.pytorch", "grpc", "transports.inproc"} <= set(sys.modules)
        assert loaded, "not imported before the fork"
        import asyncio

        import grpc
        import torch

        async def serve() -> int:
            server = grpc.aio.server()
            port: int = server.add_insecure_port("127.0.0.1:0")
            await server.start()
            await server.stop(None)
            return port

        return float(torch.ones(300, 300).mm(torch.ones(300, 300)).sum()), asyncio.run(serve())

    results = [each.return_value for each in launch(LocalLauncher(), work, 3)]
    assert [value for value, _ in results] == [300.0**3] * 3
    assert all(port > 0 for _, port in results)
