import os
import random
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import DictConfig

from flame_run.launch.debug import DebugLauncher
from flame_run.launch.errors import WorkerDied

Launch = Callable[..., Sequence[JobReturn]]


def test_every_worker_runs_in_a_thread_of_this_process_under_its_name(launch: Launch) -> None:
    results = launch(DebugLauncher(), lambda config: (os.getpid(), threading.current_thread().name, config.worker.name), 3)
    assert [each.return_value for each in results] == [(os.getpid(), f"w-{i}", f"w-{i}") for i in range(3)]


def test_workers_take_turns_at_their_waits_in_the_order_of_the_plan(launch: Launch) -> None:
    launcher = DebugLauncher()
    turns: list[tuple[str, int]] = []

    def work(config: DictConfig) -> None:
        for step in range(3):
            turns.append((config.worker.name, step))
            with launcher.gate.released():
                pass

    launch(launcher, work, 3)
    assert turns[0] == ("w-0", 0)
    for name in ("w-0", "w-1", "w-2"):
        assert [step for who, step in turns if who == name] == [0, 1, 2]


def test_each_worker_keeps_its_own_random_numbers_and_hydra_config(launch: Launch) -> None:
    launcher = DebugLauncher()

    def work(config: DictConfig) -> Any:
        seed = int(config.worker.name[-1])
        random.seed(seed)
        torch.manual_seed(seed)
        drawn, folders = [], set()
        for _ in range(4):
            drawn.append((random.random(), float(torch.rand(()))))
            with launcher.gate.released():
                pass
            folders.add(HydraConfig.get().runtime.output_dir)
        return drawn, folders

    together = [each.return_value for each in launch(launcher, work, 3)]
    for index, (drawn, folders) in enumerate(together):
        random.seed(index)
        torch.manual_seed(index)
        assert drawn == [(random.random(), float(torch.rand(()))) for _ in range(4)]
        assert len(folders) == 1
        assert folders.pop().endswith(f"w-{index}")


def test_an_exception_or_exit_fails_its_worker_only(launch: Launch) -> None:
    seen: list[tuple[int, str]] = []

    def work(config: DictConfig) -> str:
        if config.worker.name == "w-0":
            raise ValueError("no luck")
        if config.worker.name == "w-1":
            sys.exit(3)
        return "done"

    results = launch(DebugLauncher(observer=lambda index, _, what: seen.append((index, what))), work, 3)
    assert [each.status for each in results] == [JobStatus.FAILED, JobStatus.FAILED, JobStatus.COMPLETED]
    assert isinstance(results[0]._return_value, ValueError)
    assert "sys.exit(3)" in str(results[1]._return_value)
    assert sorted(seen) == [(0, "exit 1"), (0, "started"), (1, "exit 1"), (1, "started"), (2, "exit 0"), (2, "started")]


def test_kill_ends_waiting_workers_and_the_launch(launch: Launch) -> None:
    launcher = DebugLauncher()
    waits, killed = threading.Event(), threading.Event()

    def work(config: DictConfig) -> None:
        with launcher.gate.released():
            waits.set()
            assert killed.wait(60)

    results: list[JobReturn] = []
    thread = threading.Thread(target=lambda: results.extend(launch(launcher, work, 2)))
    thread.start()
    assert waits.wait(30)
    launcher.kill()
    killed.set()
    thread.join(30)
    assert not thread.is_alive()
    assert all(isinstance(each._return_value, WorkerDied) for each in results)


def test_workers_exchange_messages_through_the_hub(launch: Launch) -> None:
    from transports.base import Arrived, ChannelSpec
    from transports.inproc import InprocEndpoint
    from transports.message import Message

    launcher = DebugLauncher()

    def work(config: DictConfig) -> str:
        name = config.worker.name
        other = {"w-0": "w-1", "w-1": "w-0"}[name]
        with InprocEndpoint(name, launcher.hub, gate=launcher.gate) as endpoint:
            channel = endpoint.open(ChannelSpec(name="c", group="default", ends=(other,)))
            delivery = channel.send(Message("hello", 1), [other])
            while not isinstance(event := channel.receive(timeout=60), Arrived):
                pass
            sender = event.offer.take(timeout=60).header.sender
            delivery.wait(timeout=60)
            return sender

    assert [each.return_value for each in launch(launcher, work, 2)] == ["w-1", "w-0"]


def test_a_debugger_in_a_worker_has_the_terminal(launch: Launch, monkeypatch: Any, capsys: Any) -> None:
    import io

    monkeypatch.setattr(sys, "stdin", io.StringIO("p 6 * 7\nc\n"))

    def work(config: DictConfig) -> str:
        import pdb  # noqa: T100 - what is tested

        pdb.Pdb(nosigint=True, readrc=False).set_trace()
        return "went on"

    results = launch(DebugLauncher(), work, 1)
    assert results[0].return_value == "went on"
    assert "42" in capsys.readouterr().out
