"""The tracker's process with a real store."""

import os
import signal
import socket
import subprocess
import sys
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import mlflow
import psutil
import pytest
import torch

from flame_run.track import Tracker, TrackError, start_tracker, sync
from flame_run.track.settings import TrackSettings
from flame_run.track.state import TrackState


def runs_of(settings: TrackSettings) -> tuple[Any, dict[str, Any]]:
    client = mlflow.MlflowClient(settings.uri)
    experiment = client.get_experiment_by_name(settings.experiment)
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    parents = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    assert len(parents) == 1
    return parents[0], {run.data.tags["worker"]: run for run in runs if run is not parents[0]}


def history(settings: TrackSettings, run: Any, name: str) -> list[tuple[int, float, int]]:
    client = mlflow.MlflowClient(settings.uri)
    return sorted((each.step, each.value, each.timestamp) for each in client.get_metric_history(run.info.run_id, name))


def losses(worker: int, rounds: int) -> list[tuple[int, float, int]]:
    return [(round_, 1 / round_ + worker, 1_000_000 + 1000 * round_) for round_ in range(1, rounds + 1)]


def test_a_job_is_one_parent_run_with_a_child_per_worker_its_metrics_and_its_models(folder, settings):
    chosen = settings(register="digits")
    tracker = start_tracker(chosen)
    for round_ in (1, 2, 3):
        folder.rounds(1, first=round_)
        tracker.wake()
    example = torch.randn(2, 3)
    best = folder.module("Straight", example)
    folder.end(trainer_1="failed")
    result = tracker.finish()

    assert (result.warnings, result.unsent) == ((), 0)
    assert result.run_id is not None
    parent, children = runs_of(chosen)
    assert parent.info.run_id == result.run_id
    assert parent.info.run_name == "tiny run"
    assert parent.info.status == "FINISHED"
    assert parent.data.params == {"job.name": "tiny", "job.hyperparameters.learningRate": "0.1"}
    statuses = {name: run.info.status for name, run in children.items()}
    assert statuses == {"aggregator-0": "FINISHED", "trainer-0": "FINISHED", "trainer-1": "FAILED"}
    tags = children["trainer-1"].data.tags
    assert tags["mlflow.parentRunId"] == result.run_id
    assert (tags["role"], tags["dataset"], tags["groups"], tags["error"]) == ("trainer", "data-2", "param=default", "boom")
    assert history(chosen, parent, "loss") == losses(0, 3)
    assert history(chosen, children["aggregator-0"], "loss") == losses(0, 3)
    assert history(chosen, children["trainer-1"], "loss") == losses(2, 3)

    client = mlflow.MlflowClient(chosen.uri)
    assert {"plan.json", "topology.mmd", "summary.json", "config.yaml"} <= {
        each.path for each in client.list_artifacts(result.run_id)
    }
    assert client.get_model_version_by_alias("digits", "best").run_id == result.run_id
    check_models(chosen, result.run_id, result.models, example, best)


def check_models(settings: TrackSettings, run_id: str, models: Any, example: torch.Tensor, best: torch.nn.Module) -> None:
    mlflow.set_tracking_uri(settings.uri)
    assert set(models) == {"best", "last"}
    for uri in (models["best"], f"runs:/{run_id}/best"):
        loaded = mlflow.pytorch.load_model(uri)
        with torch.no_grad():
            torch.testing.assert_close(loaded(example), best(example))
            assert loaded(torch.randn(5, 3)).shape == (5, 2)
    info = mlflow.models.get_model_info(models["best"])
    assert info.signature.inputs.inputs[0].shape == (-1, 3)
    assert info.signature.outputs.inputs[0].shape == (-1, 2)
    outputs = mlflow.MlflowClient(settings.uri).get_run(run_id).outputs
    assert outputs is not None
    assert {output.model_id: output.step for output in outputs.model_outputs} == {
        models["best"].rpartition("/")[2]: 2,
        models["last"].rpartition("/")[2]: 3,
    }


def test_a_job_that_goes_on_is_tracked_in_the_same_run(folder, settings):
    chosen = settings(log_models=False)
    folder.rounds(2)
    folder.end("failed")
    first = start_tracker(chosen).finish()
    assert runs_of(chosen)[0].info.status == "FAILED"
    folder.rounds(1, first=3)
    folder.end()
    second = start_tracker(chosen).finish()
    assert second.run_id == first.run_id
    parent, _ = runs_of(chosen)
    assert parent.info.status == "FINISHED"
    assert history(chosen, parent, "loss") == losses(0, 3)


def test_what_a_server_that_is_down_could_not_take_is_counted_and_delivered_once_later(folder, settings, working_dir, request):
    # Bound, so that nobody else gets the port, but nobody listens yet.
    free = socket.socket()
    request.addfinalizer(free.close)
    free.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    free.bind(("127.0.0.1", 0))
    port = free.getsockname()[1]
    chosen = settings(uri=f"http://127.0.0.1:{port}", log_models=False, timeout=20)
    tracker = start_tracker(chosen)
    folder.rounds(2)
    tracker.wake()
    folder.end()
    result = tracker.finish()
    assert result.run_id is None
    assert result.unsent == 6
    assert len(result.warnings) == 1
    assert chosen.uri in result.warnings[0]

    command = [sys.executable, "-m", "mlflow", "server", "--port", str(port), "--workers", "1", "--backend-store-uri"]
    command += [f"sqlite:///{working_dir / 'mlflow.db'}", "--artifacts-destination", str(working_dir / "served")]
    environment = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    server = subprocess.Popen(
        command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, env=environment, start_new_session=True
    )
    try:
        assert server.stderr is not None
        assert any("startup complete" in line for line in server.stderr)
        for _ in range(2):
            synced = sync(folder.path, timeout=240)
            assert (synced.warnings, synced.unsent) == ((), 0)
            parent, children = runs_of(chosen)
            assert parent.info.status == "FINISHED"
            assert history(chosen, parent, "loss") == losses(0, 2)
            assert history(chosen, children["trainer-0"], "loss") == losses(1, 2)
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.communicate()


def test_two_trackers_may_make_a_new_store_at_once(folder, tmp_path, modules, settings):
    (tmp_path / "mlflow.db").unlink()
    other = type(folder)(tmp_path / "other", modules)
    both = [settings(log_models=False), settings(log_models=False)]
    both[1] = TrackSettings.from_mapping({**_values(both[1]), "run_dir": str(other.path), "run_name": "other"})
    trackers = []
    for each, chosen in zip((folder, other), both, strict=True):
        each.rounds(1)
        each.end()
        trackers.append(start_tracker(chosen))
    results = [tracker.finish(240) for tracker in trackers]
    assert [(result.warnings, result.unsent) for result in results] == [((), 0)] * 2
    assert results[0].experiment_id == results[1].experiment_id
    assert results[0].run_id != results[1].run_id


def _values(settings: TrackSettings) -> dict[str, Any]:
    return {name: getattr(settings, name) for name in TrackSettings.__slots__}


def started(tracker: Tracker) -> psutil.Process:
    tracker._starter.join(30)
    return psutil.Process(tracker._process.pid)  # type: ignore[union-attr]


def test_a_tracker_that_is_killed_is_a_warning(folder, settings):
    tracker = start_tracker(settings())
    started(tracker).kill()
    assert tracker._process is not None
    assert wait([tracker._process.sentinel], 60)
    folder.rounds(1)
    tracker.wake()
    result = tracker.finish()
    assert result.unsent == 3
    assert len(result.warnings) == 1
    assert "ended with exit status -9" in result.warnings[0]


def test_a_tracker_that_hangs_blocks_neither_a_wake_nor_the_end(folder, settings):
    tracker = start_tracker(settings())
    process = started(tracker)
    process.suspend()
    for _ in range(100_000):
        tracker.wake()
    result = tracker.finish(0.5)
    assert result.warnings == ("tracking did not end within 0.5 s: waited for the tracker to answer",)
    assert not process.is_running()


def test_a_tracker_ends_with_its_runner(folder, settings):
    tracker = start_tracker(settings())
    process = started(tracker)
    tracker._connection.close()
    process.wait(30)


def test_a_tracker_that_cannot_start_is_a_warning(folder, settings):
    def spawn(target, settings, connection):
        raise OSError("no more processes")

    result = start_tracker(settings(), spawn).finish()
    assert result.warnings == ("the tracker could not be started: OSError: no more processes",)


def test_a_folder_that_was_never_tracked_or_is_still_running_is_refused(folder, settings):
    with pytest.raises(TrackError, match="was never tracked"):
        sync(folder.path)
    TrackState.begin(settings())
    me = psutil.Process()
    (folder.path / "runner.json").write_text(f'{{"pid": {me.pid}, "create_time": {me.create_time()}, "host": "here"}}')
    with pytest.raises(TrackError, match="still going on"):
        sync(folder.path)


def test_the_runner_imports_neither_mlflow_nor_torch_for_it():
    heavy = "{'mlflow', 'torch', 'lightning', 'grpc'}"
    code = f"import sys, flame_run, flame_run.track, flame_run.models_io; print({heavy} & set(sys.modules))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2])
    assert found.stdout.strip() == "set()"


def test_a_start_method_that_a_library_has_made_the_default_does_not_reach_the_tracker() -> None:
    # joblib's does so in its workers: a process that is spawned there would look for the method before anything is imported.
    code = "import joblib, multiprocessing as m; m.set_start_method('loky', force=True)\n"
    code += "from flame_run.track.handle import _known_start_method\n"
    code += "from multiprocessing.spawn import get_preparation_data\n"
    code += "with _known_start_method(): print(get_preparation_data('tracker')['start_method'])\n"
    code += "print(m.get_start_method())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=240, check=False)
    assert done.stdout.split() == ["spawn", "loky"], done.stderr
