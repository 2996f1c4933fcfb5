"""The tracking store behind one seam: MLflow's client, its errors as `TrackError`."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from flame_run.track.errors import TrackError
from flame_run.track.settings import TrackSettings

if TYPE_CHECKING:
    from mlflow import MlflowClient

LOCK_WAIT = 60.0
"""Seconds that the first use of an SQLite file waits for another process that migrates it."""
_PERMANENT = frozenset(
    {
        "INVALID_PARAMETER_VALUE",
        "BAD_REQUEST",
        "RESOURCE_ALREADY_EXISTS",
        "RESOURCE_DOES_NOT_EXIST",
        "PERMISSION_DENIED",
        "UNAUTHENTICATED",
        "ENDPOINT_NOT_FOUND",
    },
)


@dataclass(frozen=True, slots=True)
class Store:
    """An open store and the experiment of the job."""

    client: "MlflowClient"
    experiment_id: str


def prepare_environment(settings: TrackSettings) -> None:
    """Set the process environment before MLflow is imported.

    No usage telemetry unless asked for. MLflow itself retries a request for minutes; here the tracker does, between
    other work, so MLflow tries once and gives up early. What the user set stays.
    """
    if not settings.telemetry:
        os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
        os.environ["DO_NOT_TRACK"] = "true"
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    # a run id that was meant for the user's own script would be taken by start_run
    os.environ.pop("MLFLOW_RUN_ID", None)


@contextmanager
def store_errors(doing: str) -> Iterator[None]:
    """Turn what MLflow, its HTTP client and its database raise into a `TrackError` that says what was being done."""
    from mlflow.exceptions import MlflowException  # noqa: PLC0415 - imports 1 s worth of modules
    from sqlalchemy.exc import SQLAlchemyError  # noqa: PLC0415

    try:
        yield
    except MlflowException as error:
        raise TrackError(f"{doing}: {_first_line(error)}", permanent=error.error_code in _PERMANENT) from error
    except (OSError, SQLAlchemyError) as error:  # requests' errors are OSErrors
        raise TrackError(f"{doing}: {_first_line(error)}") from error


def open_store(settings: TrackSettings) -> Store:
    """Open the store, migrate a new SQLite file under a file lock, and find or make the experiment.

    Raises:
        TrackError: the store cannot be reached, or the experiment was deleted.

    """
    prepare_environment(settings)
    import mlflow  # noqa: PLC0415 - 1 s, and its environment must stand first

    with store_errors(f"open {settings.uri}"), _first_use(settings):
        mlflow.set_tracking_uri(settings.uri)
        client = mlflow.MlflowClient(settings.uri)
        return Store(client, _experiment(client, settings))


def _experiment(client: "MlflowClient", settings: TrackSettings) -> str:
    found = client.get_experiment_by_name(settings.experiment)
    if found is None:
        return str(client.create_experiment(settings.experiment, artifact_location=settings.artifacts))
    if found.lifecycle_stage != "active":
        reason = f"the experiment {settings.experiment!r} of {settings.uri} was deleted; restore it or choose tracking.experiment"
        raise TrackError(reason, permanent=True)
    return str(found.experiment_id)


@contextmanager
def _first_use(settings: TrackSettings) -> Iterator[None]:
    """Hold the lock of an SQLite file: two processes that migrate a new one at once break it."""
    database = settings.database
    if database is None:
        yield
        return
    database.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(database.with_name(f".{database.name}.lock"), timeout=LOCK_WAIT):
            yield
    except Timeout as error:
        raise TrackError(f"waited {LOCK_WAIT:g} s for the lock of {database}") from error


def _first_line(error: Any) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
