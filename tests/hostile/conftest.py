"""Real jobs that go on until the test has done its worst."""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from flame_run.join.bundle import make_token
from tests.e2e.conftest import Run
from tests.hostile import gated
from tests.hostile.strangers import Door

ROUNDS = 8
FOLDER = Path(gated.__file__).parent
JOB = (
    "experiment=smoke", "tracking=none", f"job.hyperparameters.rounds={ROUNDS}",
    f"python_path=[{FOLDER}]", "+job.code.trainer=gated.GatedTrainer",
)  # fmt: skip


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The hash of the model that the job makes when nobody disturbs it."""
    run = Run(JOB, tmp_path_factory.mktemp("undisturbed"))
    assert run.finish() == 0, run.text + run.stderr
    return str(run.json("summary.json")["model_sha256"])


class Siege:
    """A job in its rounds that cannot end before `relieve`."""

    def __init__(self, folder: Path, *overrides: str, env: Mapping[str, str] | None = None) -> None:
        self.folder = folder
        self._gate = folder / "gate"
        os.mkfifo(self._gate)
        self.environment = {gated.GATE: str(self._gate), gated.ROUND: str(ROUNDS), gated.LEAK: str(folder / "leaked")}
        work = folder / "work"
        work.mkdir()
        self.run = Run([*JOB, *overrides], work, {**self.environment, **(env or {})})

    def doors(self) -> list[Door]:
        """Every port on which the job listens; call it once its rounds have begun."""
        found = [Door(port, control=True) for port in ports_of(psutil.Process(self.run.process.pid))]
        found += [Door(port, control=False) for each in self.run.family for port in ports_of(each)]
        assert {door.control for door in found} == {True, False}, found
        return found

    def channel_token(self) -> str:
        """The token that the workers of the job show each other, once they have trained."""
        return (self.folder / "leaked").read_text()

    def relieve(self) -> int:
        """Let the job go on to its end; returns its status."""
        assert self.run.process.poll() is None, "the job was over before the strangers were through"
        # For reading as well, so that it opens at once.
        gate = os.open(self._gate, os.O_RDWR)
        try:
            return self.run.finish()
        finally:
            os.close(gate)

    def logs(self) -> str:
        """All that the run has logged and said."""
        files = [*self.run.folder.glob("run.log"), *sorted(self.run.folder.glob("workers/*/worker.log"))]
        return "\n".join([self.run.text, self.run.stderr, *(path.read_text() for path in files)])


def ports_of(process: psutil.Process) -> list[int]:
    """The ports on which a process listens."""
    with suppress(psutil.NoSuchProcess):
        return sorted({each.laddr.port for each in process.net_connections("tcp") if each.status == psutil.CONN_LISTEN})
    return []


@pytest.fixture
def besieged(tmp_path: Path) -> Iterator[Callable[..., Siege]]:
    """Start a job that goes on until it is relieved."""
    sieges: list[Siege] = []

    def begin(*overrides: str, env: Mapping[str, str] | None = None) -> Siege:
        sieges.append(Siege(tmp_path, *overrides, env=env))
        return sieges[-1]

    yield begin
    for siege in sieges:
        if siege.run.process.poll() is None:
            siege.run.process.kill()
            siege.run.process.communicate()


@pytest.fixture
def token(tmp_path: Path) -> Any:
    """A file with the token of the job, made by its owner."""
    return make_token(tmp_path / "secret")


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Run]]:
    """Start `flame-run` with arguments in the folder of the test."""
    runs: list[Run] = []

    def begin(*arguments: str, env: Mapping[str, str] | None = None) -> Run:
        runs.append(Run(arguments, tmp_path, dict(env or {})))
        return runs[-1]

    yield begin
    for run in runs:
        if run.process.poll() is None:
            run.process.kill()
            run.process.communicate()
