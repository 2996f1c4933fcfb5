"""`launcher=cohort`: workers that share a few processes, whatever happens to one of them or to a process."""

import os
import re
import signal
from pathlib import Path
from typing import Any

import pytest

from flame_run.run.records import read_records
from tests.chaos.remains import lasting_segments

IMAGES = "{name: images, url: 'builtin://mnist-mini', realm: default, partition: {strategy: iid, count: 6}}"
SIX = [
    "experiment=mnist_two_tier", f"dataset.datasets=[{IMAGES}]", "dataset.dataSpec=[{role: trainer, datasets: [images]}]",
    "tracking=none", "job.hyperparameters.rounds=3", "+model.trainer.limit_train_batches=3", "launcher=cohort",
]  # fmt: skip
"""Six trainers."""

OWN = """
import faulthandler, logging, os, signal, subprocess, sys, threading
from pathlib import Path
from flame_run.run.records import read_records
from hydra.core.hydra_config import HydraConfig
from rich.console import Console
from tqdm import tqdm
from roles import Trainer

class Prints(Trainer):
    def train(self, task):
        print(f"{self.context.name} trains in round {task.round}")
        print("and says so", file=sys.stderr)
        return super().train(task)

class Fails(Trainer):
    def train(self, task):
        if self.context.name == "trainer-3" and task.round == 2:
            raise RuntimeError("the disk ate my gradients")
        return super().train(task)

class Dies(Trainer):
    def train(self, task):
        if self.context.name == "trainer-3" and task.round == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().train(task)

class Exits(Trainer):
    def train(self, task):
        if self.context.name == "trainer-3" and task.round == 2:
            tasks = Path(HydraConfig.get().runtime.output_dir).parents[1] / "tasks.jsonl"
            while not any(each["worker"] == "trainer-3" and each["round"] == 2 for each in read_records(tasks)):
                pass
            os._exit(7)
        return super().train(task)

class Stalls(Trainer):
    def train(self, task):
        if self.context.name == "trainer-3" and task.round == 2:
            threading.Event().wait()
        return super().train(task)

class Freezes(Trainer):
    def train(self, task):
        if self.context.name == "trainer-3" and task.round == 2:
            os.kill(os.getpid(), signal.SIGSTOP)
        return super().train(task)

class Sleeps(Trainer):
    def train(self, task):
        threading.Event().wait()

class Hangs(Trainer):
    def prepare(self):
        super().prepare()
        if self.context.name == "trainer-3":
            threading.Event().wait()

class Asks(Trainer):
    def train(self, task):
        me = self.context.name
        logging.getLogger("own").addHandler(logging.StreamHandler(sys.stdout))
        faulthandler.enable()
        Console().print(f"[bold]{me} in colours")
        list(tqdm(range(3), desc=me))
        sys.stdout.buffer.write(b"bytes of %s\\n" % me.encode())
        subprocess.run(["echo", f"child of {me}"], stdout=sys.stdout, check=True)
        print(f"{me} is {sys.stdout.encoding} {sys.stdout.isatty()}", flush=True)
        return super().train(task)
"""


@pytest.fixture
def own(tmp_path: Path) -> Path:
    (tmp_path / "own.py").write_text(OWN)
    return tmp_path


def pids(run: Any) -> dict[str, int]:
    """The process of each worker."""
    return {record["worker"]: record["pid"] for record in run.records("tasks.jsonl") if record["pid"]}


def test_trainers_share_as_many_processes_as_asked_for_and_the_aggregator_has_its_own(own: Path, flame_run: Any) -> None:
    run = flame_run(*SIX, "launcher.processes=2", "+job.code.trainer=own.Prints")
    assert run.process.returncode == 0, run.text + run.stderr
    found = pids(run)
    trainers = [found[f"trainer-{index}"] for index in range(6)]
    assert len(set(trainers)) == 2
    assert trainers[0::2] == [trainers[0]] * 3
    assert found["aggregator-0"] not in trainers
    for index in range(6):
        log = (run.folder / "workers" / f"trainer-{index}" / "worker.log").read_text().splitlines()
        assert [line for line in log if "trains in round" in line] == [f"trainer-{index} trains in round {n}" for n in (1, 2, 3)]
        assert log.count("and says so") == 3
    assert not lasting_segments()


def test_by_default_there_is_a_process_for_each_core(flame_run: Any) -> None:
    run = flame_run(*SIX)
    assert run.process.returncode == 0, run.text + run.stderr
    assert len(set(pids(run).values())) == 1 + min(6, len(os.sched_getaffinity(0)))


def test_a_worker_that_fails_ends_the_job_by_name_and_cause(own: Path, flame_run: Any) -> None:
    run = flame_run(*SIX, "launcher.processes=2", "+job.code.trainer=own.Fails")
    assert run.process.returncode == 1, run.text + run.stderr
    assert "trainer-3 failed in round 2: RuntimeError: the disk ate my gradients" in run.stderr
    workers = run.json("summary.json")["workers"]
    assert workers.pop("trainer-3") == "failed"
    assert set(workers.values()) == {"terminated"}


def test_with_continue_the_others_of_its_process_go_on(own: Path, flame_run: Any) -> None:
    run = flame_run(*SIX, "launcher.processes=2", "+job.code.trainer=own.Fails", "faults.on_worker_loss=continue")
    assert run.process.returncode == 0, run.text + run.stderr
    workers = run.json("summary.json")["workers"]
    assert workers.pop("trainer-3") == "failed"
    assert set(workers.values()) == {"completed"}
    assert run.json("summary.json")["rounds"] == 3


@pytest.mark.parametrize(("name", "words"), [("Dies", r"killed by SIGKILL|its session was lost"), ("Freezes", r"silent")])
def test_with_continue_the_job_goes_on_without_the_workers_of_a_process_that_is_lost(
    name: str, words: str, own: Path, flame_run: Any
) -> None:
    run = flame_run(
        *SIX, "launcher.processes=2", f"+job.code.trainer=own.{name}", "faults.on_worker_loss=continue", "faults.heartbeat=6",
        "faults.rejoin_timeout=2",
    )  # fmt: skip
    assert run.process.returncode == 0, run.text + run.stderr
    workers = run.json("summary.json")["workers"]
    assert workers == {
        "aggregator-0": "completed",
        **{f"trainer-{index}": "failed" if index % 2 else "completed" for index in range(6)},
    }
    assert run.json("summary.json")["rounds"] == 3
    for index in (1, 3, 5):
        (warning,) = [line for line in run.lines if line.startswith(f"warning: trainer-{index}")]
        assert re.search(words, warning), warning


def test_a_process_that_is_killed_ends_the_job_where_nothing_may_be_lost(own: Path, flame_run: Any) -> None:
    run = flame_run(*SIX, "launcher.processes=2", "+job.code.trainer=own.Dies")
    assert run.process.returncode == 1, run.text + run.stderr
    assert re.search(r"trainer-[135]\b.*(killed by SIGKILL|its session was lost)", run.stderr), run.stderr
    assert "in a process shared with trainer-" in run.json("summary.json")["error"]


def test_code_that_ends_its_process_is_told_with_the_worker_whose_turn_it_was(own: Path, flame_run: Any) -> None:
    run = flame_run(*SIX, "launcher.processes=2", "+job.code.trainer=own.Exits")
    assert run.process.returncode == 1, run.text + run.stderr
    words = "trainer-3 ended with exit status 7 in round 2 in a process shared with trainer-1, trainer-5"
    assert run.json("summary.json")["error"] == words
    assert words in run.stderr
    assert str(run.folder / "workers" / "trainer-3" / "worker.log") in run.text
    assert str(run.folder / "workers" / "trainer-1") not in run.text
    workers = run.json("summary.json")["workers"]
    assert workers.pop("trainer-3") == "failed"
    assert set(workers.values()) == {"terminated"}


def test_a_worker_that_keeps_the_others_of_its_process_waiting_is_told_of(own: Path, start: Any) -> None:
    run = start(*SIX, "launcher.processes=2", "+job.code.trainer=own.Stalls", "launcher.turn_warning=2")
    line = run.await_line(r"warning: trainer-3 has had the turn for \d+ s .*2 other workers of its process wait for it")
    log = next((run.cwd / "outputs").glob("*/*")) / "workers" / "trainer-3" / "worker.log"
    assert f"its log: {log}" in line
    while "threading.Event().wait()" not in log.read_text():
        assert run.process.poll() is None
    assert "WARNING trainer-3 has had the turn for" in log.read_text()
    run.signal(signal.SIGINT)
    assert run.finish() == 130, run.text + run.stderr
    assert not run.left_over()


def test_with_continue_a_worker_that_never_gets_ready_loses_its_process_and_not_the_job(own: Path, flame_run: Any) -> None:
    run = flame_run(
        *SIX, "launcher.processes=2", "+job.code.trainer=own.Hangs", "faults.on_worker_loss=continue", "faults.join_timeout=20",
        "faults.heartbeat=6",
    )  # fmt: skip
    assert run.process.returncode == 0, run.text + run.stderr
    assert run.json("summary.json")["workers"] == {
        "aggregator-0": "completed",
        **{f"trainer-{index}": "failed" if index % 2 else "completed" for index in range(6)},
    }
    assert "trainer-3 was not ready within faults.join_timeout" in run.text
    first_of_its_process = run.folder / "workers" / "trainer-1" / "worker.log"
    assert re.search("ended by force: .*trainer-3.* did not stop", first_of_its_process.read_text())


def test_code_that_asks_about_its_output_finds_a_file_of_its_own(own: Path, flame_run: Any) -> None:
    run = flame_run(*SIX, "launcher.processes=2", "+job.code.trainer=own.Asks", "job.hyperparameters.rounds=1")
    assert run.process.returncode == 0, run.text + run.stderr
    for index in range(6):
        me = f"trainer-{index}"
        log = (run.folder / "workers" / me / "worker.log").read_text()
        for words in (f"{me} in colours", f"{me}: 100%", f"bytes of {me}", f"child of {me}", f"{me} is utf-8 False"):
            assert words in log


def test_ctrl_c_ends_workers_that_do_not_listen(own: Path, start: Any) -> None:
    run = start(*SIX, "launcher.processes=2", "+job.code.trainer=own.Sleeps")
    run.await_line("7 workers")
    wait_until_training(run)
    run.signal(signal.SIGINT)
    assert run.finish() == 130, run.text + run.stderr
    assert not run.left_over()


def wait_until_training(run: Any) -> None:
    """Read the tasks until somebody is in round 1."""
    import psutil

    (folder,) = (run.cwd / "outputs").glob("*/*")
    while not any(record["round"] == 1 for record in read_records(folder / "tasks.jsonl")):
        assert run.process.poll() is None
    run.family = psutil.Process(run.process.pid).children(recursive=True)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("launcher.processes=0", "launcher.processes = 0"),
        ("launcher.turn_warning=0", "launcher.turn_warning = 0"),
        ("faults.on_worker_loss=restart", "CohortLauncher cannot start one worker again"),
        ("transport.backend=inproc", "the workers of this launcher are processes"),
    ],
)
def test_what_it_cannot_do_is_refused_before_anything_starts(override: str, words: str, flame_run: Any) -> None:
    run = flame_run(*SIX, override)
    assert run.process.returncode == 2
    assert words in run.stderr


def test_a_process_that_loads_data_may_be_started_from_any_worker(flame_run: Any) -> None:
    run = flame_run(*SIX, "launcher.processes=2", "+model.data.num_workers=1", "job.hyperparameters.rounds=1")
    assert run.process.returncode == 0, run.text + run.stderr


def test_every_worker_speaks_tls_under_its_own_name(flame_run: Any) -> None:
    run = flame_run(*SIX, "launcher.processes=2", "security=tls", "job.hyperparameters.rounds=1")
    assert run.process.returncode == 0, run.text + run.stderr
