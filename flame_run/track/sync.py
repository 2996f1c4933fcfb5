"""Delivering later what a job's own tracker could not."""

from dataclasses import replace
from pathlib import Path

from flame_run.run.folder import RunFolder
from flame_run.track.errors import TrackError
from flame_run.track.handle import Spawn, Tracker, spawn_process
from flame_run.track.settings import TrackResult
from flame_run.track.state import TrackState


def sync(run_dir: str | Path, timeout: float | None = None, spawn: Spawn = spawn_process) -> TrackResult:
    """Deliver what is left of a run that is over to the store it was tracked in; what was delivered is not sent again.

    Args:
        run_dir: the run folder.
        timeout: seconds to wait at most; None takes `tracking.timeout` of the run.
        spawn: how the tracker's process is started.

    Raises:
        TrackError: the folder was never tracked, or its job is still going on.

    """
    folder = RunFolder(run_dir)
    state = TrackState.load(folder.path)
    runner = folder.read_runner()
    if runner is not None and runner.process() is not None:
        raise TrackError(f"the job of {folder.path} is still going on and is tracked by its runner", permanent=True)
    # the folder may have been moved since
    state.settings = replace(state.settings, run_dir=str(folder.path))
    state.save()
    return Tracker(state.settings, spawn).finish(timeout)
