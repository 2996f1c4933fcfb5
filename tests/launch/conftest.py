import json
import os
import secrets
import socket
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from hydra.core.global_hydra import GlobalHydra
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher

HERE = Path(__file__).parent
SHIM = str(HERE / "shim")
ROOT = HERE.parents[1]


@pytest.fixture
def launcher_shim(hydra_restore_singletons: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let Hydra's plugin manager find `LocalLauncher`, here and in programs that the test starts."""
    from hydra.core.plugins import Plugins
    from hydra.core.singleton import Singleton
    from hydra.version import VersionBase

    monkeypatch.syspath_prepend(SHIM)
    paths = [SHIM, str(ROOT), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))
    # Plugins scanned before the shim was there would hide it.
    Singleton._instances.pop(Plugins, None)
    # The suite expects an application that has not chosen a version, whatever ran before.
    Singleton._instances.pop(VersionBase, None)
    Plugins.instance()


@pytest.fixture(autouse=True)
def no_idle_fork_server() -> Iterator[None]:
    """End the fork servers that a test leaves warm."""
    from flame_run.launch.forkserver import SERVERS

    yield
    SERVERS.stop()


class Meeting:
    """Where workers of any process meet: each waits until all of its run are there, or until the end of the meeting.

    `arrived` holds what they said, `(run, name, pid)`, and `until` blocks until so many are there.
    """

    def __init__(self) -> None:
        self.name = f"flame-run-test-{secrets.token_hex(8)}"
        self.quorum: int | None = None
        self.arrived: list[tuple[str, str, int]] = []
        self._changed = threading.Condition()
        self._guests: list[socket.socket] = []
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind("\0" + self.name)
        self._listener.listen(256)
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        runs: dict[str, list[socket.socket]] = {}
        while True:
            try:
                guest, _ = self._listener.accept()
            except OSError:
                return
            said = guest.recv(4096)
            if not said:  # it was killed before it could speak
                guest.close()
                continue
            run, name, pid = json.loads(said)
            runs.setdefault(run, []).append(guest)
            if len(runs[run]) == self.quorum:
                for each in runs[run]:
                    each.send(b"g")
            with self._changed:
                self._guests.append(guest)
                self.arrived.append((run, name, pid))
                self._changed.notify_all()

    def until(self, count: int) -> list[int]:
        """Wait for `count` workers; their process ids."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.arrived) >= count, 60), f"only {self.arrived} came"
            return [pid for _, _, pid in self.arrived]

    def close(self) -> None:
        if self._listener.fileno() == -1:
            return
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(10)
        for guest in self._guests:
            guest.close()


@pytest.fixture
def meeting(monkeypatch: pytest.MonkeyPatch) -> Iterator[Meeting]:
    meeting = Meeting()
    monkeypatch.setenv("FLAME_RUN_TEST_MEETING", meeting.name)
    yield meeting
    meeting.close()


Launch = Callable[..., Sequence[JobReturn]]


@pytest.fixture
def launch(hydra_restore_singletons: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Launch]:
    """Launch workers `w-0`, `w-1`, ... with the configuration of the application in `app`."""
    from hydra import initialize_config_dir

    from flame_run.launch.workers import launch_workers

    monkeypatch.setenv("FLAME_RUN_CONF", str(ROOT / "conf"))

    def run(launcher: Launcher, task: Callable[[Any], Any], workers: int = 3, overrides: Sequence[str] = ()) -> Sequence[JobReturn]:
        return launch_workers(
            launcher,
            config_loader=GlobalHydra.instance().config_loader(),
            config_name="config",
            overrides=overrides,
            hydra_overrides=[],
            sweep_dir=tmp_path / "run",
            names=[f"w-{i}" for i in range(workers)],
            rendezvous=tmp_path / "a file, = with ${odd} 'marks'",
            task_function=task,
            nodes=("worker", "workers", "rate", "act"),
        )

    with initialize_config_dir(config_dir=str(HERE / "app" / "conf"), version_base="1.3"):
        yield run


@pytest.fixture
def assert_gone() -> Callable[[Sequence[psutil.Process]], None]:
    def check(processes: Sequence[psutil.Process]) -> None:
        _, alive = psutil.wait_procs(list(processes), timeout=60)
        assert [each for each in alive if _lives(each)] == []

    return check


def _lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.fixture
def those_of() -> Callable[[Iterable[int]], list[psutil.Process]]:
    """The processes of these ids that have not ended."""

    def find(pids: Iterable[int]) -> list[psutil.Process]:
        found = []
        for pid in pids:
            with suppress(psutil.NoSuchProcess):
                found.append(psutil.Process(pid))
        return found

    return find
