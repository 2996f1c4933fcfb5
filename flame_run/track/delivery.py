"""Delivery of a run folder into the store, step by step; each step goes on where an earlier try stopped."""

import traceback
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from flame_run.track.errors import TrackError
from flame_run.track.runs import Runs
from flame_run.track.settings import TrackResult
from flame_run.track.state import TrackState
from flame_run.track.store import Store, open_store

if TYPE_CHECKING:
    from flame_run.track.models import Models


class Delivery:
    """Brings the records, files and models of one run folder into its store."""

    def __init__(self, state: TrackState) -> None:
        self.state = state
        self.warnings: list[str] = []
        self._store: Store | None = None
        self._runs: Runs | None = None
        self._models: Models | None = None
        self._prepared = False

    @property
    def connected(self) -> bool:
        """Whether the store ever answered."""
        return self._store is not None

    def step(self) -> None:
        """Deliver what is there now.

        Raises:
            TrackError: the store could not be reached or refused something; nothing is lost, another step tries again.

        """
        runs = self._open()
        runs.send_metrics()
        runs.send_artifacts()

    def prepare_models(self) -> None:
        """Do the part of logging the models that does not need their weights, as soon as the run folder allows it."""
        if not self.state.settings.log_models or self._prepared:
            return
        try:
            models = self._load_models()
            if models.ready:
                self._prepared = True
                models.prepare()
        except Exception:  # noqa: BLE001 - the user's module may raise anything; the end of the job tries again and tells
            self._prepared = True
            traceback.print_exc()

    def last_steps(self) -> Iterator[tuple[str, Callable[[], None]]]:
        """Yield what is left to do at the end of the job: its name and the action, which may raise `TrackError`."""
        yield "the metrics", self.step
        if self.state.settings.log_models:
            yield "the models", self._send_models
        yield "the final states", lambda: self._open().close()

    def result(self) -> TrackResult:
        """Return how far the delivery has come."""
        state = self.state
        refused = f"{state.refused} lines of metrics.jsonl are no records and were left out"
        return TrackResult(
            run_id=state.run_id,
            experiment_id=state.experiment_id,
            ui_command=state.settings.ui_command,
            warnings=(*dict.fromkeys(self.warnings), *([refused] if state.refused else [])),
            unsent=state.unsent,
            models=dict(state.models),
        )

    def _open(self) -> Runs:
        if self._runs is None:
            self._store = self._store or open_store(self.state.settings)
            runs = Runs(self._store, self.state)
            runs.open()
            self._runs = runs
        return self._runs

    def _load_models(self) -> "Models":
        if self._models is None:
            from flame_run import torchvision_guard  # noqa: PLC0415

            torchvision_guard.install()  # MLflow's flavour imports Lightning
            from flame_run.track.models import Models, limit_threads  # noqa: PLC0415 - imports torch and MLflow's flavour

            limit_threads()
            self._models = Models(self.state)
        return self._models

    def _send_models(self) -> None:
        self._open()
        assert self._store is not None
        try:
            warning = self._load_models().send(self._store)
        except TrackError:
            raise
        except Exception as error:  # the user's module may raise anything; the job's outcome must not depend on it
            traceback.print_exc()
            raise TrackError(f"{type(error).__name__}: {error}", permanent=True) from error
        if warning is not None:
            self.warnings.append(warning)
