"""`CohortLauncher` with real processes; the fork server imports nothing heavy here."""

import os
import random
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from hydra.core.utils import JobReturn, JobStatus
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import DictConfig

from flame_run.launch.cohort import CohortLauncher
from flame_run.launch.errors import WorkerDied
from flame_run.launch.forking import ForkingLauncher, warm
from flame_run.launch.local import LocalLauncher

Launch = Callable[..., Sequence[JobReturn]]
Gone = Callable[[Sequence[psutil.Process]], None]


def bare(processes: int | None = 2, **options: Any) -> CohortLauncher:
    return CohortLauncher(processes, preload=[], **options)


def where(config: DictConfig) -> tuple[str, int]:
    return config.worker.name, os.getpid()


class Together:
    """A task for which `turn` is done by one worker at a time; `wait` lets the others run."""

    def __init__(self, turn: Callable[[DictConfig, Any, list[Any]], Any]) -> None:
        self.turn = turn

    def __call__(self, config: DictConfig) -> Any:
        raise AssertionError("workers that share a process are called together")

    @contextmanager
    def together(self, gate: Any) -> Iterator[Callable[[DictConfig], Any]]:
        seen: list[Any] = []
        yield lambda config: self.turn(config, gate.released, seen)


@given(jobs=st.integers(0, 40), processes=st.integers(1, 12), data=st.data())
def test_every_job_is_dealt_once_and_nobody_sits_with_those_who_are_alone(jobs: int, processes: int, data: st.DataObject) -> None:
    launcher = bare(processes)
    launcher.alone = data.draw(st.sets(st.integers(0, jobs - 1)) if jobs else st.just(set()))
    hands = launcher.deal([None] * jobs)  # type: ignore[list-item] # only how many there are counts
    assert sorted(index for hand in hands for index in hand) == list(range(jobs))
    shared = [hand for hand in hands if not set(hand) & set(launcher.alone)]
    assert len(shared) == min(processes, jobs - len(launcher.alone))
    assert len(hands) == len(shared) + len(launcher.alone)
    sizes = [len(hand) for hand in shared]
    assert max(sizes, default=0) - min(sizes, default=0) <= 1
    assert all(list(hand) == sorted(hand) for hand in hands)


def test_jobs_share_processes_in_turn_and_come_back_in_order(launch: Launch) -> None:
    launcher = bare()
    launcher.alone = {2, 5}
    values = [each.return_value for each in launch(launcher, where, 7)]
    assert [name for name, _ in values] == [f"w-{i}" for i in range(7)]
    process = [pid for _, pid in values]
    assert process[0] == process[3] == process[6]
    assert process[1] == process[4]
    assert len(set(process)) == 4


def test_by_default_there_are_as_many_processes_as_cores(launch: Launch) -> None:
    cores = len(os.sched_getaffinity(0))
    values = [each.return_value for each in launch(bare(None), where, cores + 3)]
    assert len({pid for _, pid in values}) == cores


def test_a_process_with_one_job_runs_it_in_its_main_thread(launch: Launch) -> None:
    def work(config: DictConfig) -> bool:
        return threading.current_thread() is threading.main_thread()

    assert [each.return_value for each in launch(bare(8), work, 2)] == [True, True]


def test_one_worker_of_a_process_runs_at_a_time_until_it_waits(launch: Launch) -> None:
    def turn(config: DictConfig, released: Any, seen: list[str]) -> list[str]:
        for _ in range(20):
            seen.append(config.worker.name)
            assert seen[-1] == config.worker.name
            seen.append(config.worker.name)
            with released():
                pass
        return seen

    results = launch(bare(1), Together(turn), 4)
    seen = max((each.return_value for each in results), key=len)
    assert len(seen) == 4 * 2 * 20
    assert seen[0::2] == seen[1::2]


def test_each_worker_has_its_own_configuration_and_random_numbers_whatever_runs_between(launch: Launch) -> None:
    def turn(config: DictConfig, released: Any, seen: list[str]) -> tuple[str, list[float]]:
        from hydra.core.hydra_config import HydraConfig

        random.seed(config.worker.name)
        numbers = []
        for _ in range(5):
            numbers.append(random.random())
            with released():
                pass
        return HydraConfig.get().runtime.output_dir, numbers

    together = [each.return_value for each in launch(bare(1), Together(turn), 3)]
    for index, (folder, numbers) in enumerate(together):
        random.seed(f"w-{index}")
        assert folder.endswith(f"/w-{index}")
        assert numbers == [random.random() for _ in range(5)]


def test_a_job_that_fails_or_exits_is_told_from_those_that_share_its_process(launch: Launch) -> None:
    def work(config: DictConfig) -> str:
        match config.worker.name:
            case "w-0":
                raise ValueError("no luck")
            case "w-2":
                sys.exit(3)
            case "w-4":
                raise KeyboardInterrupt
            case "w-6":
                sys.exit(5)
        return str(config.worker.name)

    seen: dict[int, str] = {}
    results = launch(bare(observer=lambda index, _, what: seen.update({index: what})), work, 8)
    assert [each.status is JobStatus.COMPLETED for each in results] == [False, True] * 4
    errors = [each._return_value for each in results[0::2]]
    assert isinstance(errors[0], ValueError)
    assert "Traceback" in errors[0].__notes__[0]
    assert all(isinstance(error, WorkerDied) for error in errors[1:])
    assert "sys.exit(3)" in str(errors[1])
    assert "KeyboardInterrupt" in str(errors[2])
    assert seen == {0: "exit 1", 2: "exit 3", 4: "exit 1", 6: "exit 5"} | dict.fromkeys([1, 3, 5, 7], "exit 0")


@pytest.mark.parametrize(("end", "what"), [("exit", "exit 5"), ("kill", "killed by SIGKILL")])
def test_all_jobs_of_a_process_that_ends_are_lost_and_no_others(launch: Launch, end: str, what: str) -> None:
    def work(config: DictConfig) -> int:
        if config.worker.name == "w-2" and end == "exit":
            os._exit(5)
        if config.worker.name == "w-2":
            os.kill(os.getpid(), signal.SIGKILL)
        return os.getpid()

    seen: list[tuple[int, str]] = []
    results = launch(bare(observer=lambda index, _, what: seen.append((index, what))), work, 6)
    assert [each for each in seen if each[0] % 2 == 0] == [(2, what), (0, f"{what} of w-2"), (4, f"{what} of w-2")]
    assert [each for each in seen if each[0] % 2] == [(1, "exit 0"), (3, "exit 0"), (5, "exit 0")]
    assert len({each.return_value for each in results[1::2]}) == 1
    for index in (0, 2, 4):
        error = results[index]._return_value
        assert isinstance(error, WorkerDied)
        assert str(error).startswith(f"w-{index} (process ")
        assert str(error).endswith(what if index == 2 else f"{what}, while w-2 had the turn")


def test_of_a_process_that_ends_between_two_turns_nobody_is_named(launch: Launch) -> None:
    def turn(config: DictConfig, released: Any, seen: list[Any]) -> None:
        seen.append(seen[0] if seen else threading.Barrier(2))
        with released():
            seen[0].wait(60)
            if config.worker.name == "w-1":
                os._exit(5)
            threading.Event().wait()

    told: list[tuple[int, str]] = []
    results = launch(bare(1, observer=lambda index, _, what: told.append((index, what))), Together(turn), 2)
    assert told == [(0, "exit 5 of nobody"), (1, "exit 5 of nobody")]
    assert all(str(each._return_value).endswith("exit 5, while nobody had the turn") for each in results)


def test_a_worker_that_keeps_the_others_waiting_is_told_of_once(launch: Launch, tmp_path: Path) -> None:
    gate = str(tmp_path / "gate")
    os.mkfifo(gate)

    def work(config: DictConfig) -> str:
        return Path(gate).read_text() if config.worker.name == "w-0" else "did not wait"

    told: list[tuple[int, str]] = []

    def observe(index: int, _: int, what: str) -> None:
        told.append((index, what))
        if index == 0 and what.startswith("long turn: "):
            Path(gate).write_text("went on")

    results = launch(bare(1, turn_warning=0.2, observer=observe), work, 2)
    assert [each.return_value for each in results] == ["went on", "did not wait"]
    assert len([what for index, what in told if index == 0 and what.startswith("long turn: ")]) == 1
    assert [each for each in told if not each[1].startswith("long turn: ")] == [(0, "exit 0"), (1, "exit 0")]


@pytest.mark.parametrize("kind", [LocalLauncher, CohortLauncher])
def test_code_that_starts_its_program_again_does_not_start_the_runner(
    kind: type[ForkingLauncher], launch: Launch, monkeypatch: pytest.MonkeyPatch
) -> None:
    def work(config: DictConfig) -> tuple[list[str], int, str]:
        import subprocess

        again = subprocess.run([sys.executable, *sys.argv], capture_output=True, text=True, check=False)
        return sys.argv, again.returncode, again.stderr

    monkeypatch.setattr(sys, "argv", [__file__, "experiment=smoke"])
    for each in launch(kind(preload=[]), work, 3):
        arguments, status, words = each.return_value
        assert arguments == ["flame-run-worker"]
        assert (status, "can't open file" in words) == (2, True)


def test_an_error_before_the_jobs_begin_is_the_result_of_each(launch: Launch) -> None:
    class Broken(Together):
        @contextmanager
        def together(self, gate: Any) -> Iterator[Callable[[DictConfig], Any]]:
            raise OSError("no room")
            yield

    results = launch(bare(1), Broken(lambda *_: None), 3)
    assert [str(each._return_value) for each in results] == ["no room"] * 3


def test_kill_from_another_thread_ends_waiting_workers_and_those_behind_them(
    launch: Launch, meeting: Any, assert_gone: Gone
) -> None:
    def work(config: DictConfig) -> None:
        import socket

        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect("\0" + os.environ["FLAME_RUN_TEST_MEETING"])
            connection.sendall(f'["run", "{config.worker.name}", {os.getpid()}]'.encode())
            connection.recv(1)

    launcher = bare()
    results: list[JobReturn] = []
    thread = threading.Thread(target=lambda: results.extend(launch(launcher, work, 6)))
    thread.start()
    processes = [psutil.Process(pid) for pid in meeting.until(2)]
    assert len(set(processes)) == 2
    launcher.kill()
    thread.join(30)
    assert not thread.is_alive()
    assert [name for _, name, _ in meeting.arrived] in (["w-0", "w-1"], ["w-1", "w-0"])
    assert all(isinstance(each._return_value, WorkerDied) for each in results)
    assert len(results) == 6
    assert_gone(processes)


def test_one_fork_server_serves_one_launch_after_another(launch: Launch) -> None:
    warm([])

    def parent(config: DictConfig) -> int:
        return os.getppid()

    first, second = ({each.return_value for each in launch(bare(), parent, 4)} for _ in range(2))
    assert first == second
    assert len(first) == 1


def test_no_thread_file_or_child_of_the_runner_is_left(launch: Launch) -> None:
    def count() -> tuple[int, int, int]:
        me = psutil.Process()
        return threading.active_count(), me.num_fds(), len(me.children(recursive=True))

    launch(bare(), where, 4)
    before = count()
    launch(bare(), where, 8)
    # What tests before this one have begun may end meanwhile.
    assert all(now <= then for now, then in zip(count(), before, strict=True))
