"""What the supervisor is told by the runner, besides the controller's events, and what it answers. Frozen values.

`time` is in seconds since the epoch.
"""

from dataclasses import dataclass

from flame_run.control.events import ControlEvent
from flame_run.run.records import MetricRecord, TaskRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessEvent:
    """The launcher saw a worker's process begin or end."""

    worker: str
    pid: int
    what: str
    """`started`, `exit 3`, `killed by SIGKILL`, or `gone`: it has ended, and nobody can tell how. Of a process that workers
    share also `exit 3 of NAME` and `long turn: 60`, see `flame_run.launch.crew.Observer`."""
    time: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchReturned:
    """The launcher is done: no worker of it runs any more."""

    results: tuple[tuple[str, bool, str], ...]
    """For each worker: its name, whether its function returned, and the error if not."""
    time: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchFailed:
    """The launcher itself failed."""

    error: str
    time: float


@dataclass(frozen=True, slots=True, kw_only=True)
class StopRequested:
    """Somebody wants the job to end; a second request wants it at once."""

    signal: str
    """`SIGINT` or `SIGTERM`."""
    time: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Tick:
    """Nothing happened, but time went by."""

    time: float


Event = ControlEvent | ProcessEvent | LaunchReturned | LaunchFailed | StopRequested | Tick


@dataclass(frozen=True, slots=True)
class RecordTask:
    """Write a line of `tasks.jsonl`."""

    record: TaskRecord


@dataclass(frozen=True, slots=True)
class RecordMetrics:
    """Write lines of `metrics.jsonl`."""

    records: tuple[MetricRecord, ...]


@dataclass(frozen=True, slots=True)
class AbortJob:
    """Tell every worker to stop."""

    reason: str


@dataclass(frozen=True, slots=True)
class KillWorkers:
    """Kill the processes of `workers`: they had their time."""

    workers: tuple[str, ...]
    reason: str


@dataclass(frozen=True, slots=True)
class KillWorker:
    """Kill the process of one lost worker; the others go on."""

    worker: str


@dataclass(frozen=True, slots=True)
class VacateSeat:
    """Let a lost worker register anew."""

    worker: str
    reason: str


@dataclass(frozen=True, slots=True)
class RestartWorker:
    """Start a lost worker again."""

    worker: str


@dataclass(frozen=True, slots=True)
class GiveUpWorker:
    """Tell the other workers that this one will not come back."""

    worker: str
    reason: str


@dataclass(frozen=True, slots=True)
class Warn:
    """Show `text`; the job goes on."""

    text: str
    worker: str = ""
    """The worker whose log tells more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finish:
    """The job is over; nothing follows."""

    status: str
    """`completed`, `failed` or `terminated`."""
    exit_status: int
    error: str | None = None
    culprits: tuple[str, ...] = ()
    """The workers whose logs tell more."""


Action = (
    RecordTask | RecordMetrics | AbortJob | KillWorkers | KillWorker | VacateSeat | RestartWorker | GiveUpWorker | Warn | Finish
)
