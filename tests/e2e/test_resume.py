"""Runs that are killed, stopped or done, and go on: the same model, one record of it, nothing left behind."""

import json
import os
import shutil
import signal
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests import chaos_points as chaos
from tests.chaos.remains import lasting_segments
from tests.e2e.conftest import Run

ROUNDS = 4
MODULES = str(Path(chaos.__file__).parent)
REMEMBERING = """
from chaos_points import pass_point
from roles import FedAvg

class Remembering(FedAvg):
    \"\"\"Federated averaging that dies while its state is written, and refuses the state of another round.\"\"\"
    round = 0

    def step(self, current, gathered, round):
        assert round == self.round + 1
        self.round = round
        return super().step(current, gathered, round)

    def state_dict(self):
        pass_point("aggregator-0", "checkpointing", self.round)
        return {"round": self.round}

    def load_state_dict(self, state):
        self.round = state["round"]
"""
SMALL = ["+model.trainer.limit_train_batches=4", "job.optimizer=keep", "tracking=none"]
SMOKE = [
    "experiment=smoke", f"job.hyperparameters.rounds={ROUNDS}", *SMALL, "algorithm._target_=remembering.Remembering",
    *chaos.code(trainer="Trainer", aggregator="Aggregator"),
]  # fmt: skip


@pytest.fixture
def command(start: Any, tmp_path: Path) -> Callable[..., Run]:
    """Run `flame-run` to its end with faults, whose processes are known afterwards."""
    (tmp_path / "modules").mkdir(exist_ok=True)
    (tmp_path / "modules" / "remembering.py").write_text(REMEMBERING)

    path = os.pathsep.join([MODULES, str(tmp_path / "modules"), *filter(None, [os.environ.get("PYTHONPATH")])])

    def complete(*arguments: str, faults: tuple[Mapping[str, Any], ...] = (), cwd: Path | None = None, **env: str) -> Run:
        env = {**chaos.environment(*faults), "PYTHONPATH": path, **env}
        run: Run = start(*arguments, cwd=cwd or tmp_path, env=env)
        run.finish()
        return run

    return complete


@pytest.fixture(scope="module")
def hashes() -> dict[str, str]:
    """What was run -> the hash of the model of an undisturbed run, once it is known."""
    return {}


@pytest.fixture
def undisturbed(hashes: dict[str, str], command: Callable[..., Run]) -> Callable[..., str]:
    """The hash of the model of an undisturbed run."""

    def find(*arguments: str) -> str:
        key = " ".join(arguments)
        if key not in hashes:
            run = command(*arguments, "hydra.run.dir=undisturbed")
            assert run.process.returncode == 0, run.text + run.stderr
            hashes[key] = run.json("summary.json")["model_sha256"]
            shutil.rmtree(run.folder)
        return hashes[key]

    return find


def processes(folder: Path) -> Iterator[psutil.Process]:
    """Processes that use the run folder and have not ended."""
    for process in psutil.process_iter():
        try:
            words = " ".join(process.cmdline()) + process.cwd()
            if process.status() != psutil.STATUS_ZOMBIE and str(folder) in words:
                yield process
        except psutil.Error:
            continue


def whole(folder: Path, rounds: int = ROUNDS) -> dict[str, Any]:
    """The summary of a completed run, after a look at everything else in its folder."""
    summary: dict[str, Any] = json.loads((folder / "summary.json").read_text())
    assert (summary["status"], summary["rounds"], summary["error"]) == ("completed", rounds, None)
    assert set(summary["workers"].values()) == {"completed"}
    assert len(summary["round_seconds"]) == rounds
    assert summary["seconds"]["total"] >= sum(summary["round_seconds"])
    metrics = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    reported = Counter((record["worker"], record["name"], record["round"]) for record in metrics)
    assert set(reported.values()) == {1}, [key for key, count in reported.items() if count > 1]
    workers = {worker for worker, name, _ in reported if name in ("round_seconds", "fit_seconds")}
    for name in ("fit_seconds", "round_seconds"):
        assert all((worker, name, each) in reported for worker in workers for each in range(1, rounds + 1)
                   if (worker, name, 1) in reported)  # fmt: skip
    roots = {record["worker"] for record in metrics if record["name"] == "round_seconds"}
    if len(roots) == 1:
        told = {record["round"]: record["value"] for record in metrics if record["name"] == "round_seconds"}
        assert [told[each] for each in sorted(told)] == summary["round_seconds"]
    tasks = [json.loads(line) for line in (folder / "tasks.jsonl").read_text().splitlines()]
    assert len({record["task_id"] for record in tasks}) == len(summary["workers"])
    left = [path.name for path in folder.rglob("*") if path.suffix in (".tmp", ".draft")]
    assert left + [name for name in (".rendezvous", "runner.json") if (folder / name).exists()] == []
    assert not lasting_segments()
    return summary


def killed(run: Run) -> None:
    """Check that a run died as a whole, leaving no summary; returns when none of its processes writes any more."""
    assert run.process.returncode == -signal.SIGKILL, run.text + run.stderr
    _, lasting = psutil.wait_procs(list(processes(run.cwd)), timeout=60)
    assert not lasting


@pytest.mark.parametrize(
    "place",
    [
        ("trainer-1", "training", 1),
        ("trainer-0", "uploading", 3),
        ("aggregator-0", "aggregating", 4),
        ("aggregator-0", "checkpointing", 2),
        ("aggregator-0", "ending", None),
    ],
)
def test_a_run_whose_every_process_was_killed_goes_on_to_the_same_bits(
    place: tuple[str, str, int | None], command: Callable[..., Run], undisturbed: Callable[..., str], tmp_path: Path
) -> None:
    expected = undisturbed(*SMOKE)
    fault = chaos.fault(place[0], place[1], "everybody", tmp_path / "fault", round=place[2])
    killed(command(*SMOKE, "hydra.run.dir=here", faults=(fault,)))
    assert not (tmp_path / "here" / "summary.json").exists()
    again = command("resume", "here")
    assert again.process.returncode == 0, again.text + again.stderr
    assert again.folder == tmp_path / "here"
    assert whole(again.folder)["model_sha256"] == expected
    # Of what it reported before the kill the runner may not have written the last; of what came after it all is there.
    root = [record for record in again.records("tasks.jsonl") if record["worker"] == "aggregator-0"]
    begin = max(index for index, record in enumerate(root) if record["state"] == "ready")
    rounds = [record["round"] for record in root[begin:] if record["state"] == "running" and record["round"]]
    assert rounds == list(range(ROUNDS + 1 - len(rounds), ROUNDS + 1))
    assert (1 in rounds) == (place[2] == 1)


def test_a_torn_newest_checkpoint_a_torn_record_and_drafts_are_no_loss(
    command: Callable[..., Run], undisturbed: Callable[..., str], tmp_path: Path
) -> None:
    expected = undisturbed(*SMOKE)
    fault = chaos.fault("trainer-0", "uploading", "everybody", tmp_path / "fault", round=4)
    killed(command(*SMOKE, "hydra.run.dir=here", faults=(fault,)))
    here = tmp_path / "here"
    newest = max((here / "checkpoints").glob("round-*.pt"))
    newest.write_bytes(newest.read_bytes()[:-1000])
    (here / "checkpoints" / "round-00009.pt.tmp").write_bytes(b"a draft")
    for name in ("tasks.jsonl", "metrics.jsonl"):
        with (here / name).open("a") as file:
            file.write('{"round": 4, "worker": "trai')
    again = command("resume", "here")
    assert f"passing over the checkpoint {newest} (its end is missing)" in again.text
    assert whole(again.folder)["model_sha256"] == expected


def test_a_run_may_be_killed_again_and_again(command: Callable[..., Run], undisturbed: Callable[..., str], tmp_path: Path) -> None:
    expected = undisturbed(*SMOKE)
    faults = tuple(
        chaos.fault(worker, point, "everybody", tmp_path / f"fault-{round}", round=round)
        for worker, point, round in (
            ("trainer-1", "uploading", 2),
            ("aggregator-0", "aggregating", 3),
            ("trainer-0", "training", 4),
        )
    )
    killed(command(*SMOKE, "hydra.run.dir=here", faults=faults))
    for _ in faults[1:]:
        killed(command("resume", "here", faults=faults))
    again = command("resume", "here", faults=faults)
    assert whole(again.folder)["model_sha256"] == expected
    assert all(chaos.happened(fault) == 1 for fault in faults)


TOPOLOGIES: Mapping[str, tuple[list[str], str]] = {
    "hierarchical": (["experiment=mnist_hierarchical", *chaos.code(trainer="Trainer")], "trainer-2"),
    "coordinated": (["experiment=mnist_coordinated", *chaos.code(trainer="Trainer", coordinator="Coordinator")], "coordinator-0"),
    "parallel": (["experiment=mnist_parallel", *chaos.code(trainer="Trainer")], "trainer-1"),
    "debug": (["experiment=smoke", "launcher=debug", *chaos.code(trainer="Trainer")], "trainer-1"),
}


@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_every_topology_goes_on(
    topology: str, command: Callable[..., Run], undisturbed: Callable[..., str], tmp_path: Path
) -> None:
    arguments, victim = TOPOLOGIES[topology]
    settings = [*arguments, *SMALL, f"job.hyperparameters.rounds={ROUNDS}"]
    expected = undisturbed(*settings)
    point = "assigning" if topology == "coordinated" else "uploading"
    fault = chaos.fault(victim, point, "everybody", tmp_path / "fault", round=3)
    killed(command(*settings, "hydra.run.dir=here", faults=(fault,)))
    again = command("resume", "here")
    assert again.process.returncode == 0, again.text + again.stderr
    assert whole(again.folder)["model_sha256"] == expected


def test_a_run_that_failed_goes_on_where_it_was(
    command: Callable[..., Run], undisturbed: Callable[..., str], tmp_path: Path
) -> None:
    expected = undisturbed(*SMOKE)
    fault = chaos.fault("trainer-0", "training", "raise:MemoryError", tmp_path / "fault", round=3)
    first = command(*SMOKE, "hydra.run.dir=here", faults=(fault,))
    assert first.process.returncode == 1
    again = command("resume", "here", faults=(fault,))
    assert again.process.returncode == 0, again.text + again.stderr
    assert whole(again.folder)["model_sha256"] == expected
    assert again.json("summary.json")["seconds"]["total"] > 0
    assert "completed" in command("tasks", "here").text


def test_a_run_that_was_interrupted_goes_on_and_one_that_is_going_on_does_not(
    start: Any, command: Callable[..., Run], undisturbed: Callable[..., str], tmp_path: Path
) -> None:
    expected = undisturbed(*SMOKE)
    fault = chaos.fault("trainer-0", "training", "hang", tmp_path / "fault", round=3)
    path = f"{MODULES}:{tmp_path / 'modules'}:{os.environ.get('PYTHONPATH', '')}"
    first = start(*SMOKE, "hydra.run.dir=here", env={**chaos.environment(fault), "PYTHONPATH": path})
    first.await_line("round 2/")
    refused = command("resume", "here")
    assert refused.process.returncode == 2
    assert f"the run is going on (process {first.process.pid})" in refused.stderr
    first.signal(signal.SIGINT)
    assert first.finish() == 130
    again = command("resume", "here", faults=(fault,))
    assert again.process.returncode == 0, again.text + again.stderr
    assert whole(again.folder)["model_sha256"] == expected


def test_a_completed_run_has_nothing_left_to_do_until_it_gets_more_rounds(
    command: Callable[..., Run], undisturbed: Callable[..., str], tmp_path: Path
) -> None:
    expected = undisturbed(*SMOKE)
    command(*SMOKE, "job.hyperparameters.rounds=2", "hydra.run.dir=here")
    here = tmp_path / "here"
    before = {path: path.read_bytes() for path in here.rglob("*") if path.is_file()}
    nothing = command("resume", "here")
    assert (nothing.process.returncode, nothing.folder) == (0, here)
    assert "nothing is left to do: the job has completed its 2 rounds" in nothing.text
    assert {path: path.read_bytes() for path in here.rglob("*") if path.is_file()} == before
    more = command("resume", "here", f"job.hyperparameters.rounds={ROUNDS}")
    assert more.process.returncode == 0, more.text + more.stderr
    assert whole(here)["model_sha256"] == expected
    assert f"job.hyperparameters.rounds={ROUNDS}" in (here / ".hydra" / "overrides.yaml").read_text()
    fewer = command("resume", "here", "job.hyperparameters.rounds=3")
    assert fewer.process.returncode == 2
    assert "the run has 4 rounds done already" in fewer.stderr


def test_what_would_make_another_run_of_it_is_refused_and_nothing_is_touched(command: Callable[..., Run], tmp_path: Path) -> None:
    fault = chaos.fault("trainer-0", "uploading", "everybody", tmp_path / "fault", round=2)
    killed(command(*SMOKE, "hydra.run.dir=here", faults=(fault,)))
    here = tmp_path / "here"
    swept = (".rendezvous", "runner.json")  # what only a running job needs
    before = {path: path.read_bytes() for path in here.rglob("*") if path.is_file() and path.name not in swept}
    wrong = ["job.seed=1", "model=mnist_mlp", "dataset=default", "job.share.exclude=['*.bias']"]
    refused = command("resume", "here", *wrong)
    assert refused.process.returncode == 2
    for words in ("job.seed = 1: cannot change", "it was 0", "model.module._target_", "dataset.datasets", "job.share.exclude"):
        assert words in refused.stderr
    assert "Traceback" not in refused.stderr
    assert {path: path.read_bytes() for path in here.rglob("*") if path.is_file()} == before
    other = command("resume", "here", "job.hyperparameters.learningRate=0.01")
    assert other.process.returncode == 0
    assert "from here on job.hyperparameters.learningRate is 0.01, not 0.03" in other.text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "takes the folder of a run"),
        (["nowhere"], "there is no such folder"),
        (["."], "it is no run folder"),
        ([".", "-m", "job.seed=1,2"], "one run goes on"),
    ],
)
def test_a_folder_that_is_no_run_is_a_problem(arguments: list[str], words: str, command: Callable[..., Run]) -> None:
    run = command("resume", *arguments)
    assert run.process.returncode == 2
    assert words in run.stderr


def test_a_run_of_a_sweep_started_elsewhere_from_files_goes_on(
    command: Callable[..., Run], undisturbed: Callable[..., str], tmp_path: Path
) -> None:
    """Relative paths are those of the folder where the run was started, and the run is the one of its overrides."""
    expected = undisturbed(*SMOKE)
    place = tmp_path / "place"
    place.mkdir()
    schema = Path(__file__).parents[2] / "conf" / "schema" / "two_tier.yaml"
    shutil.copy(schema, place / "mine.yaml")
    arguments = [*SMOKE, "schema_file=mine.yaml", "hydra.sweep.dir=sweep", "hydra.sweep.subdir='seed=${job.seed}'"]
    fault = chaos.fault("trainer-0", "uploading", "everybody", tmp_path / "fault", round=3)
    killed(command("-m", *arguments, "job.seed=0,1", faults=(fault,), cwd=place))
    folder = place / "sweep" / "seed=0"
    again = command("resume", "place/sweep/seed=0")
    assert again.process.returncode == 0, again.text + again.stderr
    assert again.folder == folder
    assert whole(folder)["model_sha256"] == expected
