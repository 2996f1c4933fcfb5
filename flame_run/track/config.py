"""Options of the configuration group `tracking`."""

from dataclasses import dataclass


@dataclass
class TrackingConf:
    """How a job is tracked in MLflow."""

    enabled: bool = True
    """False: nothing is tracked and no tracker process starts."""
    uri: str | None = None
    """Tracking server or database; None: the SQLite file `mlflow.db` in the working folder."""
    experiment: str = "${job.name}"
    """Experiment that the run belongs to; made if it does not exist."""
    register: str | None = None
    """Name in the model registry for the best and the last model; None registers nothing."""
    timeout: float = 30.0
    """Seconds that the end of a job waits for the tracker at most."""
    telemetry: bool = False
    """True leaves MLflow's own usage telemetry as MLflow has it."""
    log_models: bool = True
    """Whether the best and the last model are logged."""
