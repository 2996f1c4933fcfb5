"""How far the tracking of a run folder has come: `.tracking.json`, replaced whole after every step."""

import json
import os
import secrets
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Self

from flame_run.run.folder import RunFolder
from flame_run.track.errors import TrackError
from flame_run.track.records import count_records
from flame_run.track.settings import TrackSettings


@dataclass(slots=True, kw_only=True)
class TrackState:
    """What has been delivered so far."""

    settings: TrackSettings
    key: str = field(default_factory=lambda: secrets.token_hex(16))
    """Tag by which a run is found again whose creation was asked for but never answered."""
    asked: bool = False
    """Whether the creation of runs was ever asked for."""
    experiment_id: str | None = None
    run_id: str | None = None
    described: bool = False
    """Whether the parent run has its parameters."""
    children: dict[str, str] = field(default_factory=dict)
    """Worker -> id of its run."""
    metrics_offset: int = 0
    """Bytes of `metrics.jsonl` that were delivered."""
    artifacts: list[str] = field(default_factory=list)
    """Files of the run folder that were logged."""
    models: dict[str, str] = field(default_factory=dict)
    """Name of each logged model -> its MLflow URI."""
    replayed: bool = False
    """Whether records are sent that the store may have already, of rounds that a resumed job did again."""
    refused: int = 0
    """Lines of `metrics.jsonl` that are no records of it."""
    reopen: bool = False
    """Whether the runs have a final status that the job, going on, takes back."""
    closed: bool = False
    """Whether every run has its final status."""

    @property
    def folder(self) -> RunFolder:
        """The run folder."""
        return RunFolder(self.settings.run_dir)

    def save(self) -> None:
        """Replace the file of the run folder; only its owner can read it, since a URI may hold a password."""
        path = self.folder.tracking
        # not named *.tmp: the runner sweeps such files away while the tracker still writes
        draft = path.with_name(f"{path.name}.draft")
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
            json.dump(asdict(self), file)
        draft.replace(path)

    @classmethod
    def load(cls, run_dir: Path) -> Self:
        """Return the state of a run folder.

        Raises:
            TrackError: the folder was never tracked, or its state cannot be read.

        """
        path = RunFolder(run_dir).tracking
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise TrackError(f"{run_dir} holds no {path.name}: its job was never tracked", permanent=True) from error
        except (OSError, ValueError) as error:
            raise TrackError(f"{path} cannot be read: {error}", permanent=True) from error
        return cls(**{**values, "settings": TrackSettings.from_mapping(values["settings"])})

    @classmethod
    def begin(cls, settings: TrackSettings) -> Self:
        """Return a saved state for a job that starts, or goes on in the same run where the folder was tracked before."""
        try:
            state = cls.load(Path(settings.run_dir))
        except TrackError:
            state = cls(settings=settings)
        if state.settings.uri != settings.uri:
            state = cls(settings=settings)
        state.settings = settings
        state.reopen |= state.closed
        state.closed = False
        state.models = {}
        state.artifacts = []
        state.save()
        return state

    @classmethod
    def rewind(cls, run_dir: Path) -> bool:
        """Have all records of a run folder looked at once more, since some will be replaced.

        Returns:
            False if the folder was never tracked.

        """
        try:
            state = cls.load(run_dir)
        except TrackError:
            return False
        state.metrics_offset, state.replayed, state.refused = 0, True, 0
        state.save()
        return True

    @property
    def unsent(self) -> int:
        """Number of records of `metrics.jsonl` that were not delivered."""
        return count_records(self.folder.metrics, self.metrics_offset)


def in_same_store(settings: TrackSettings) -> TrackSettings:
    """The settings with the store and the experiment in which the run folder was tracked before."""
    before = TrackState.load(Path(settings.run_dir)).settings
    return replace(settings, uri=before.uri, artifacts=before.artifacts, experiment=before.experiment, run_name=before.run_name)
