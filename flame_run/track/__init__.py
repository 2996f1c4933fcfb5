"""Tracking of a job in MLflow, by a process of its own.

Light to import: MLflow and torch are imported in the tracker's process only.
"""

from flame_run.track.config import TrackingConf
from flame_run.track.errors import TrackError
from flame_run.track.handle import Process, Spawn, Tracker, spawn_process, start_tracker
from flame_run.track.settings import TrackResult, TrackSettings, make_settings
from flame_run.track.sync import sync

__all__ = [
    "Process",
    "Spawn",
    "TrackError",
    "TrackResult",
    "TrackSettings",
    "Tracker",
    "TrackingConf",
    "make_settings",
    "spawn_process",
    "start_tracker",
    "sync",
]
