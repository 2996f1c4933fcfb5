"""What the tracker is told, and what it tells at the end. Frozen values that can be written as JSON."""

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from flame_run.track.config import TrackingConf

LOG_FILE = "tracker.log"
"""File of the run folder that takes everything the tracker and MLflow print."""
SQLITE = "sqlite:///"
DEFAULT_DATABASE = "mlflow.db"
DEFAULT_ARTIFACTS = "mlruns"


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackSettings:
    """Everything that the tracker of one job needs beside the run folder itself."""

    run_dir: str
    """Absolute path of the run folder."""
    uri: str
    """Tracking URI; an SQLite file by its absolute path."""
    artifacts: str | None
    """URI of the folder for artifacts of a new experiment; None leaves it to the server."""
    experiment: str
    run_name: str
    """Name of the job's run in MLflow."""
    roots: tuple[str, ...] = ()
    """Workers whose metrics are those of the global model."""
    register: str | None = None
    timeout: float = 30.0
    """Seconds."""
    telemetry: bool = False
    log_models: bool = True

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> Self:
        """Return the settings that `dataclasses.asdict` and JSON made `values` of."""
        return cls(**{**values, "roots": tuple(values["roots"])})

    @property
    def database(self) -> Path | None:
        """The SQLite file of the store, None where the store is something else."""
        return Path(self.uri.removeprefix(SQLITE)) if self.uri.startswith(SQLITE) else None

    @property
    def ui_command(self) -> str:
        """The command that shows the store in a browser; for a server its address."""
        if self.uri.startswith(("http://", "https://")):
            return self.uri
        return f"mlflow ui --backend-store-uri {shlex.quote(self.uri)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackResult:
    """How the tracking of a job ended."""

    run_id: str | None
    """Id of the job's run in MLflow, None if it could not be made."""
    experiment_id: str | None
    ui_command: str
    warnings: tuple[str, ...] = ()
    """Sentences for the person who started the job."""
    unsent: int = 0
    """Records of `metrics.jsonl` that were not delivered."""
    models: Mapping[str, str] = field(default_factory=dict)
    """Name of each logged model -> its MLflow URI."""

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> Self:
        """Return the result that `dataclasses.asdict` and JSON made `values` of."""
        return cls(**{**values, "warnings": tuple(values["warnings"])})


def make_settings(
    conf: TrackingConf,
    *,
    run_dir: Path,
    working_dir: Path,
    run_name: str,
    roots: tuple[str, ...] = (),
) -> TrackSettings:
    """Return the settings of a job's tracker from the group `tracking` (a `TrackingConf` or a node of its shape).

    Relative SQLite files and the folder of artifacts are taken from `working_dir`. For every local store the artifacts
    of a new experiment go to its folder `mlruns`; a server decides for itself.
    """
    uri = str(conf.uri) if conf.uri else f"{SQLITE}{DEFAULT_DATABASE}"
    local = "://" not in uri or uri.startswith(SQLITE)
    if uri.startswith(SQLITE):
        uri = f"{SQLITE}{(working_dir / uri.removeprefix(SQLITE)).absolute()}"
    return TrackSettings(
        run_dir=str(run_dir.absolute()),
        uri=uri,
        artifacts=(working_dir / DEFAULT_ARTIFACTS).absolute().as_uri() if local else None,
        experiment=str(conf.experiment),
        run_name=run_name,
        roots=tuple(roots),
        register=conf.register,
        timeout=float(conf.timeout),
        telemetry=bool(conf.telemetry),
        log_models=bool(conf.log_models),
    )
