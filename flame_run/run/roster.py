"""The workers of a job as the supervisor knows them, and the records that their changes make."""

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from flame_run.control.events import MetricsReported
from flame_run.run.events import Action, RecordMetrics, RecordTask, Warn
from flame_run.run.records import MetricRecord, TaskRecord
from flame_run.run.task import Task
from flame_run.topology.plan import Plan


class Roster:
    """The tasks of a plan, in its order.

    Args:
        plan: the workers.
        users: names of the workers that join by themselves (`user`, see `TaskRecord`); the others are started by the runner.
    """

    def __init__(self, plan: Plan, users: Collection[str] = ()) -> None:
        self._tasks = {
            worker.name: Task(worker, plan.job_id, "user" if worker.name in users else "system") for worker in plan.workers
        }
        self._root_of = plan.root_of
        self._false_roots: set[str] = set()
        self._results: dict[str, Mapping[str, Any]] = {}
        self._changed: dict[str, float] = {}
        self._entered = 0
        self.actions: list[Action] = []
        """What is to be done; the supervisor hands it over."""

    def __iter__(self) -> Iterator[Task]:
        return iter(self._tasks.values())

    def get(self, name: str) -> Task | None:
        """Return the task of a worker, None if it is none of the plan."""
        return self._tasks.get(name)

    @property
    def launched(self) -> list[Task]:
        """The tasks that the launcher starts."""
        return [task for task in self if task.type == "system"]

    @property
    def entered(self) -> int:
        """The highest round that any worker entered, 0 before the first."""
        return self._entered

    @property
    def completed(self) -> bool:
        """Whether every worker has completed."""
        return all(task.state == "completed" for task in self)

    @property
    def final(self) -> bool:
        """Whether no worker's state can change any more."""
        return all(task.final for task in self)

    @property
    def doubtful(self) -> list[Task]:
        """Tasks that seem to have failed, those first that blame no peer."""
        return sorted((task for task in self if task.doubt is not None and not task.final), key=lambda task: task.blames_peer)

    @property
    def lasting(self) -> tuple[str, ...]:
        """Workers of which something still runs, as far as anybody can tell."""
        return tuple(task.name for task in self if not task.over)

    @property
    def results(self) -> dict[str, Mapping[str, Any]]:
        """Root -> its latest result, in the order of the plan."""
        return {name: self._results[name] for name in self._tasks if name in self._results}

    def keep_result(self, task: Task, result: Mapping[str, Any]) -> None:
        """Keep a root's result; an earlier one is replaced, also that of one whose place it took. Nobody else has one."""
        root = self._root_of(task.name)
        if root is not None:
            self._results = {name: kept for name, kept in self._results.items() if self._root_of(name) != root}
            self._results[task.name] = result
        elif task.name not in self._false_roots:
            self._false_roots.add(task.name)
            self.warn(f"{task.name} reported a result, though it is no root", task.name)

    def record_metrics(self, event: MetricsReported) -> None:
        """Record the values of a report, in its order."""
        records = (
            MetricRecord(round=event.round, worker=event.worker, name=name, value=value, time=event.time)
            for name, value in event.values.items()
        )
        self.actions.append(RecordMetrics(tuple(records)))

    def begin(self, time: float) -> None:
        """Record every task as it is at the beginning."""
        for task in self:
            self._record(task, time)

    def records(self) -> tuple[TaskRecord, ...]:
        """Return the last record of every task."""
        return tuple(task.record(self._changed.get(task.name, 0.0)) for task in self)

    def starting(self, task: Task, time: float) -> None:
        """Note that a worker has begun to exist."""
        # The launcher and the worker's session may tell of it in any order, and late.
        if task.state in ("ready", "restarting"):
            self.change(task, "starting", time)

    def change(self, task: Task, state: str, time: float, *, round_: int | None = None, error: str | None = None) -> bool:
        """Change a task and record that, if it is a change; returns False for a final state, which stays."""
        if task.final:
            return False
        before = (task.state, task.round)
        task.state, task.round, task.error = state, round_ or task.round, error
        self._entered = max(self._entered, task.round or 0)
        if before != (task.state, task.round):
            self._record(task, time)
        return True

    def warn(self, text: str, worker: str = "") -> None:
        """Show `text`; `worker` has a log that tells more."""
        self.actions.append(Warn(text, worker))

    def _record(self, task: Task, time: float) -> None:
        self._changed[task.name] = time
        self.actions.append(RecordTask(task.record(time)))
