"""The runs of a job in the store: one parent, a child per worker, their parameters, metrics and final states."""

import json
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from flame_run.track.names import MAX_TAG, METRICS_PER_BATCH, PARAMS_PER_BATCH, legal_name
from flame_run.track.params import run_parameters
from flame_run.track.records import milliseconds, read_records
from flame_run.track.state import TrackState
from flame_run.track.store import Store, store_errors

if TYPE_CHECKING:
    from mlflow.entities import Metric

ARTIFACTS = ("plan.json", "topology.mmd", ".hydra/config.yaml", "topology.svg", "summary.json", "report.html")
"""Files of the run folder that are logged where they exist."""
KEY_TAG = "flame_run_key"
PARENT_TAG = "mlflow.parentRunId"
Item = TypeVar("Item")
_STATUS = {"completed": "FINISHED", "failed": "FAILED", "terminated": "KILLED"}


class Runs:
    """Writes what a run folder holds into the store; every method goes on where an earlier try stopped."""

    def __init__(self, store: Store, state: TrackState) -> None:
        self._client = store.client
        self._experiment_id = store.experiment_id
        self._state = state
        self._folder = state.folder
        self._stored: dict[str, set[tuple[str, int]]] = {}
        """Run -> name and step of every value that the store had when it was asked; only where records are replayed."""

    def open(self) -> None:
        """Make the parent run and a child per worker of the plan, or find those made before.

        Raises:
            TrackError: the store did not take it.

        """
        plan = read_json(self._folder.plan)
        with store_errors("make the runs"):
            self._open_parent(plan)
            self._open_children(plan)
            if self._state.reopen:
                for run_id in (str(self._state.run_id), *self._state.children.values()):
                    self._reopen(run_id)
                self._state.reopen = False
                self._state.save()

    def send_metrics(self) -> int:
        """Deliver what `metrics.jsonl` has beyond the saved offset and return the number of records.

        The offset moves only after a slice was taken; the store drops equal values, so a slice sent twice counts once.

        Raises:
            TrackError: the store did not take it.

        """
        total = 0
        while True:
            part = read_records(self._folder.metrics, self._state.metrics_offset, METRICS_PER_BATCH)
            if part.offset == self._state.metrics_offset:
                return total
            for run_id, metrics in self._by_run(part.records).items():
                for batch in _batches(metrics, METRICS_PER_BATCH):
                    with store_errors("log metrics"):
                        self._client.log_batch(run_id, metrics=batch)
            self._state.metrics_offset = part.offset
            self._state.refused += part.skipped
            self._state.save()
            total += len(part.records)

    def send_artifacts(self) -> None:
        """Log the files of the run folder that were not logged yet.

        Raises:
            TrackError: the store did not take one.

        """
        for name in ARTIFACTS:
            path = self._folder.path / name
            if name in self._state.artifacts or not path.is_file():
                continue
            with store_errors(f"log {name}"):
                self._client.log_artifact(self._state.run_id, str(path))
            self._state.artifacts.append(name)
            self._state.save()

    def close(self) -> None:
        """Give every run its final status, by `summary.json` and the last record of each task.

        Raises:
            TrackError: the store did not take one.

        """
        if self._state.closed:
            return
        summary = self._folder.read_summary() or {}
        ended = _modified(self._folder.summary)
        tasks = {record["worker"]: record for record in read_records(self._folder.tasks, 0).records if "worker" in record}
        for worker, run_id in self._state.children.items():
            task = tasks.get(worker, {})
            self._close(run_id, str(task.get("state")), ended, {name: task.get(name) for name in ("host", "error")})
        tags = {"error": summary.get("error"), "model_sha256": summary.get("model_sha256")}
        self._close(str(self._state.run_id), str(summary.get("status")), ended, tags)
        self._state.closed = True
        self._state.save()

    def _close(self, run_id: str, state: str, ended: int, tags: Mapping[str, object]) -> None:
        with store_errors("close the runs"):
            for name, value in tags.items():
                if value:
                    self._client.set_tag(run_id, name, str(value)[:MAX_TAG])
            self._client.set_terminated(run_id, _STATUS.get(state, "KILLED"), ended)

    def _reopen(self, run_id: str) -> None:
        """Take a final status back, and what was said about a failure."""
        self._client.update_run(run_id, status="RUNNING")
        if "error" in self._client.get_run(run_id).data.tags:
            self._client.delete_tag(run_id, "error")

    def _open_parent(self, plan: Mapping[str, Any]) -> None:
        state = self._state
        if state.run_id is None and state.asked:
            found = self._client.search_runs([self._experiment_id], f"tags.{KEY_TAG} = '{state.key}'", max_results=1)
            state.run_id = found[0].info.run_id if found else None
        if state.run_id is None:
            state.asked = True
            state.experiment_id = self._experiment_id
            state.save()
            tags = {KEY_TAG: state.key, "job_id": plan.get("job", {}).get("id", ""), "run_dir": str(self._folder.path)}
            state.run_id = self._create_run(state.settings.run_name, tags)
            state.save()
        if not state.described:
            self._describe(state.run_id)
            state.described = True
            state.save()

    def _describe(self, run_id: str) -> None:
        from mlflow.entities import Param  # noqa: PLC0415 - see store.open_store

        params = [Param(key, value) for key, value in run_parameters(self._folder.config).items()]
        for batch in _batches(params, PARAMS_PER_BATCH):
            self._client.log_batch(run_id, params=batch)

    def _open_children(self, plan: Mapping[str, Any]) -> None:
        state = self._state
        missing = [worker for worker in plan.get("workers", []) if worker["name"] not in state.children]
        if missing and self._may_have_children:
            state.children |= self._find_children()
            missing = [worker for worker in missing if worker["name"] not in state.children]
        try:
            for worker in missing:
                state.children[worker["name"]] = self._create_run(worker["name"], self._worker_tags(worker))
        finally:
            if missing:
                state.save()

    @property
    def _may_have_children(self) -> bool:
        return bool(self._state.children) or self._state.described

    def _find_children(self) -> dict[str, str]:
        found: dict[str, str] = {}
        token: str | None = None
        while True:
            page = self._client.search_runs(
                [self._experiment_id], f"tags.`{PARENT_TAG}` = '{self._state.run_id}'", max_results=1000, page_token=token
            )
            found |= {run.data.tags["worker"]: run.info.run_id for run in page if "worker" in run.data.tags}
            token = page.token
            if not token:
                return found

    def _worker_tags(self, worker: Mapping[str, Any]) -> dict[str, str]:
        groups = ", ".join(f"{channel}={label}" for channel, label in worker.get("groups", {}).items())
        tags = {
            PARENT_TAG: self._state.run_id,
            "worker": worker["name"],
            "role": worker.get("role"),
            "task_id": worker.get("task_id"),
            "groups": groups,
            "dataset": worker.get("dataset"),
            "realm": worker.get("realm"),
        }
        return {name: str(value)[:MAX_TAG] for name, value in tags.items() if value}

    def _create_run(self, name: str, tags: Mapping[str, str]) -> str:
        tags = {**tags, "mlflow.source.name": "flame-run", "mlflow.source.type": "JOB"}
        return str(self._client.create_run(self._experiment_id, tags=tags, run_name=name).info.run_id)

    def _by_run(self, records: Iterable[Mapping[str, Any]]) -> dict[str, list["Metric"]]:
        runs: dict[str, list[Metric]] = defaultdict(list)
        for record in records:
            metric = _metric(record)
            if metric is None:
                self._state.refused += 1
                continue
            worker = str(record["worker"])
            name = legal_name(str(record["name"]))
            targets = [(self._child(worker), name)]
            if worker in self._state.settings.roots:
                several = len(self._state.settings.roots) > 1
                targets.append((str(self._state.run_id), legal_name(f"{name}/{worker}") if several else name))
            for run_id, target in targets:
                if not self._is_stored(run_id, value := metric(target)):
                    runs[run_id].append(value)
        return runs

    def _is_stored(self, run_id: str, metric: "Metric") -> bool:
        """Whether a value of this name and step was sent before the job went on; MLflow cannot replace one."""
        if not self._state.replayed:
            return False
        if run_id not in self._stored:
            with store_errors("read metrics"):
                names = self._client.get_run(run_id).data.metrics
                self._stored[run_id] = {
                    (name, each.step) for name in names for each in self._client.get_metric_history(run_id, name)
                }
        return (metric.key, metric.step) in self._stored[run_id]

    def _child(self, worker: str) -> str:
        """Return the run of a worker, made now for one that joined beyond the plan."""
        if worker not in self._state.children:
            with store_errors("make the runs"):
                self._state.children[worker] = self._create_run(worker, self._worker_tags({"name": worker}))
        return self._state.children[worker]


def read_json(path: Path) -> Mapping[str, Any]:
    """Return the object of a JSON file of the run folder, an empty one where the file is missing."""
    if not path.is_file():
        return {}
    values = json.loads(path.read_text(encoding="utf-8"))
    assert isinstance(values, dict)
    return values


def _batches(values: list[Item], size: int) -> list[list[Item]]:
    return [values[start : start + size] for start in range(0, len(values), size)]


def _metric(record: Mapping[str, Any]) -> "Callable[[str], Metric] | None":
    """Return what makes a metric of the record under a given name, None if it is not a record of `metrics.jsonl`."""
    from mlflow.entities import Metric  # noqa: PLC0415 - see store.open_store

    try:
        value = float("nan") if record["value"] is None else float(record["value"])
        at, step = milliseconds(record["time"]), int(record["round"] or 0)
        _ = record["worker"], record["name"]
    except (KeyError, TypeError, ValueError):
        return None
    return lambda name: Metric(name, value, at, step)


def _modified(path: Path) -> int:
    """Return when a file was written in milliseconds since 1970, now if it was not."""
    return round((path.stat().st_mtime if path.is_file() else time.time()) * 1000)
