"""What the supervisor knows of one worker."""

from dataclasses import dataclass
from math import inf

from flame_run.run.records import TaskRecord
from flame_run.topology.plan import Worker

FINAL = ("completed", "failed", "terminated")


@dataclass(slots=True)
class Task:
    """One worker and its unit of execution."""

    worker: Worker
    job_id: str
    type: str
    state: str = "ready"
    round: int | None = None
    pid: int | None = None
    host: str | None = None
    error: str | None = None
    ready: bool = False
    """It can start; `state` says `starting` until the job has started."""
    session: str = ""
    """Empty before it registered, then `open`, `closed` or `lost`."""
    process: str = ""
    """Empty before the launcher saw it, then `started`, or how it ended."""
    ended: bool = False
    """Its process is known to be gone."""
    doubt: str | None = None
    """Why it seems to have failed, while another worker may be the cause."""
    blames_peer: bool = False
    """It ended because of a peer, or was told to, so that its own end explains nothing."""
    epoch: tuple[int, int] | None = None
    """Local epochs done, and of how many, in this round."""
    restarts: int = 0
    """How often it was restarted."""
    lost: bool = False
    """It is lost and not started again yet."""
    killed: bool = False
    kill_at: float = inf
    """When it is to be killed, or, once it was, to be given up."""
    restart_at: float = inf
    back_by: float = inf
    """When a restarted worker has to be prepared."""

    @property
    def name(self) -> str:
        """Name of the worker."""
        return self.worker.name

    @property
    def final(self) -> bool:
        """Whether its state can change no more."""
        return self.state in FINAL

    @property
    def over(self) -> bool:
        """Whether nothing of it runs any more, as far as anybody can tell."""
        if self.type == "user" and not self.session:
            return True
        return self.ended or (not self.process and self.session in ("closed", "lost"))

    @property
    def when(self) -> str:
        """Where in the job it is, for a message."""
        if self.round is not None:
            return f"in round {self.round}"
        if self.restarts:
            return "before it was back"
        return "before round 1" if self.session else "before it registered"

    def begin_again(self) -> None:
        """Forget what was known of the process and the session that are lost."""
        self.round = self.pid = self.host = self.doubt = self.epoch = None
        self.session = self.process = ""
        self.ready = self.ended = self.blames_peer = self.lost = self.killed = False
        self.kill_at = self.restart_at = self.back_by = inf

    def record(self, time: float) -> TaskRecord:
        """Its line of `tasks.jsonl`."""
        return TaskRecord(
            time=time,
            job_id=self.job_id,
            task_id=self.worker.task_id,
            worker=self.worker.name,
            role=self.worker.role,
            type=self.type,
            state=self.state,
            round=self.round,
            pid=self.pid,
            host=self.host,
            error=self.error,
        )
