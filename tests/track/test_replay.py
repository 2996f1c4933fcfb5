"""A job that goes on after a crash: its rounds that are done again, in one continuous run."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlflow
import pytest

from flame_run.track import start_tracker
from flame_run.track.settings import TrackSettings
from flame_run.track.state import TrackState, in_same_store


def runs_of(settings: TrackSettings) -> tuple[Any, dict[str, Any]]:
    client = mlflow.MlflowClient(settings.uri)
    experiment = client.get_experiment_by_name(settings.experiment)
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    (parent,) = (run for run in runs if "mlflow.parentRunId" not in run.data.tags)
    return parent, {run.data.tags["worker"]: run for run in runs if run is not parent}


def history(settings: TrackSettings, run: Any, name: str) -> list[tuple[int, float]]:
    client = mlflow.MlflowClient(settings.uri)
    return sorted((each.step, each.value) for each in client.get_metric_history(run.info.run_id, name))


def drop_from(path: Path, round_: int) -> None:
    kept = [line for line in path.read_text().splitlines() if json.loads(line)["round"] < round_]
    path.write_text("".join(f"{line}\n" for line in kept))


def crash(folder: Any, chosen: TrackSettings, rounds: int, offset: int | None = None) -> str | None:
    """Deliver so many rounds and die; with `offset`, before it was noted that they were delivered."""
    folder.rounds(rounds)
    run_id = start_tracker(chosen).finish().run_id
    state = TrackState.load(folder.path)
    state.closed = False
    state.metrics_offset = state.metrics_offset if offset is None else offset
    state.save()
    return run_id


@pytest.mark.parametrize("offset", [None, 0, 300])
def test_no_step_is_there_twice_and_none_is_missing(offset: int | None, folder: Any, settings: Any) -> None:
    chosen = settings(log_models=False)
    first = crash(folder, chosen, 5, offset)
    assert TrackState.rewind(folder.path)
    drop_from(folder.path / "metrics.jsonl", 4)
    for round_ in (4, 5, 6, 7):
        for index, worker in enumerate(folder.workers):
            folder.metric(round_, worker, "loss", 1.0 / round_ + index, 9000.0 + round_)
            folder.metric(round_, worker, "new", float(round_), 9000.0 + round_)
    folder.end()
    second = start_tracker(chosen).finish()
    assert (second.run_id, second.unsent, second.warnings) == (first, 0, ())
    parent, children = runs_of(chosen)
    for index, run in enumerate([parent, children["trainer-0"], children["trainer-1"]]):
        assert history(chosen, run, "loss") == [(round_, 1 / round_ + index) for round_ in range(1, 8)]
        assert [step for step, _ in history(chosen, run, "new")] == [4, 5, 6, 7]
    assert parent.info.status == "FINISHED"


def test_what_was_said_about_a_failure_is_taken_back(folder: Any, settings: Any) -> None:
    chosen = settings(log_models=False)
    folder.rounds(1)
    folder.end("failed", trainer_0="failed")
    start_tracker(chosen).finish()
    assert runs_of(chosen)[1]["trainer-0"].data.tags["error"] == "boom"
    (folder.path / "tasks.jsonl").unlink()
    folder.end()
    start_tracker(chosen).finish()
    parent, children = runs_of(chosen)
    assert {run.info.status for run in (parent, *children.values())} == {"FINISHED"}
    assert not [run for run in (parent, *children.values()) if "error" in run.data.tags]


def test_a_folder_that_was_never_tracked_has_nothing_to_rewind(folder: Any) -> None:
    assert not TrackState.rewind(folder.path)


def test_a_run_stays_in_its_store_whatever_the_environment_says(folder: Any, settings: Any, tmp_path: Path) -> None:
    chosen = settings(log_models=False)
    first = crash(folder, chosen, 1)
    TrackState.rewind(folder.path)
    elsewhere = replace(chosen, uri=f"sqlite:///{tmp_path}/other.db", experiment="another", timeout=20.0)
    stays = in_same_store(elsewhere)
    assert (stays.uri, stays.experiment, stays.timeout) == (chosen.uri, chosen.experiment, 20.0)
    folder.end()
    assert start_tracker(stays).finish().run_id == first
    assert not (tmp_path / "other.db").exists()


def test_another_store_gets_the_whole_run(folder: Any, settings: Any, tmp_path: Path, migrated: Path) -> None:
    crash(folder, settings(log_models=False), 3)
    TrackState.rewind(folder.path)
    folder.rounds(1, first=4)
    folder.end()
    (tmp_path / "other.db").write_bytes(migrated.read_bytes())
    other = replace(settings(log_models=False), uri=f"sqlite:///{tmp_path}/other.db")
    result = start_tracker(other).finish()
    client = mlflow.MlflowClient(other.uri)
    assert [each.step for each in client.get_metric_history(str(result.run_id), "loss")] == [1, 2, 3, 4]
