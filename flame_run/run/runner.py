"""The runner: starts the workers of a plan through the launcher, follows them, ends the job. The I/O around the supervisor."""

import queue
import secrets
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, cast

from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from flame_run.control import events as control
from flame_run.control.controller import Controller
from flame_run.join.bundle import read_token
from flame_run.launch.external import started_here
from flame_run.launch.sizing import WorkerLauncher, make_launcher
from flame_run.launch.workers import launch_workers
from flame_run.run import events as ev
from flame_run.run.checks import is_debug
from flame_run.run.display import Display, make_display
from flame_run.run.folder import RunFolder
from flame_run.run.hands import Hands
from flame_run.run.parts import NODES, Parts
from flame_run.run.reception import Reception
from flame_run.run.records import JsonLines, TaskRecord
from flame_run.run.refusals import METRIC as REFUSED
from flame_run.run.refusals import Refusals
from flame_run.run.rewind import Resumed
from flame_run.run.summary import build_summary, failure_text, write_summary
from flame_run.run.supervisor import Supervisor
from flame_run.security.config import token_file
from flame_run.security.job import JobSecurity
from flame_run.topology.plan import Plan
from flame_run.track.handle import Tracker, start_tracker
from flame_run.track.settings import make_settings
from flame_run.track.state import in_same_store

LAUNCH_END = 10.0
"""Seconds that the launcher has to return once all workers are gone."""
AT_A_BREAKPOINT = 30 * 86400.0
"""Seconds that `launcher=debug` waits for its workers: a person may be looking at one of them."""
_NOT_SHOWN = ("updates", "samples", REFUSED)
_MEASURES = ("_seconds", "_bytes")


class Runner:
    """Runs one job.

    Args:
        cfg: the composed configuration, validated.
        plan: the expanded job.
        folder: the run folder, not yet created.
        resumed: what is done already, of a run that goes on.

    Raises:
        InvalidConfig: a launcher that cannot start all workers at once, or an interpolation that leads nowhere.
    """

    def __init__(self, cfg: DictConfig, plan: Plan, folder: RunFolder, resumed: Resumed | None = None) -> None:
        self._debug = is_debug(cfg)
        if self._debug:
            cfg = cfg.copy()
            cfg.faults.join_timeout = AT_A_BREAKPOINT
        self.cfg = cfg
        self.plan = plan
        self.folder = folder
        self.names = [worker.name for worker in plan.workers]
        self._here = started_here(cfg, plan)
        self._joining = tuple(name for name in self.names if name not in self._here)
        self.parts = Parts(plan, cfg, folder, secrets.token_hex(32))
        self._resumed = resumed
        if resumed is not None:
            self.parts.resumed |= resumed.workers
        self._events: queue.SimpleQueue[ev.Event] = queue.SimpleQueue()
        self._supervisor = Supervisor(plan, faults=cfg.faults, max_run_time=cfg.job.get("maxRunTime"), users=self._joining)
        self._security = JobSecurity(
            cfg.security,
            self._here,
            folder.security,
            joining=self._joining,
            bind=cfg.transport.bind,
            max_run_time=cfg.job.get("maxRunTime"),
        )
        known = token_file(cfg.security)
        token = None if known is None else read_token(known, "security.token_file")
        self._controller = Controller(plan, part=self.parts, post=self._events.put, token=token)
        self._launcher = make_launcher(cfg.launcher, len(self._here))
        if hasattr(self._launcher, "observer"):
            self._launcher.observer = self._observe
        restarting = cfg.faults.on_worker_loss == "restart"
        self._hands = Hands(self._launcher, self._controller, self._here, self._events.put, restarting=restarting)
        self._rows: dict[str, TaskRecord] = {}
        self._refusals = Refusals()
        self._tracker: Tracker | None = None
        self._ending = False

    def run(self) -> tuple[ev.Finish, float | None]:
        """Run the job to its end, whatever that is; returns how it ended and the metric of the last model."""
        with ExitStack() as stack:
            self.folder.write_runner()
            stack.callback(self.folder.sweep)
            self._tasks = stack.enter_context(JsonLines(self.folder.tasks))
            self._metrics = stack.enter_context(JsonLines(self.folder.metrics))
            stack.enter_context(_signals(self._stop))
            rounds = (self.cfg.job.get("hyperparameters") or {}).get("rounds")
            self._display = make_display(self.plan.job_name, rounds, live=not self._debug)
            stack.callback(self._display.close)
            for note in () if self._resumed is None else self._resumed.notes:
                self._display.message(note)
            finish = self._follow(stack)
            summary = self._summarise(finish)
            self._end_tracking(self._display)
        return finish, _objective(summary["metrics"], self.cfg.checkpoint.metric)

    def _stop(self, event: ev.StopRequested) -> None:
        """Somebody wants the run to end: the job, or, when that is over, the wait for MLflow."""
        self._events.put(event)
        if self._ending and self._tracker is not None:
            self._tracker.give_up()

    def _follow(self, stack: ExitStack) -> ev.Finish:
        """Launch and handle events until the supervisor says that the job is over."""
        stack.callback(self._controller.abort, "the runner has ended")
        work = self._reception().open(stack)
        launching = threading.Thread(target=self._launch, args=(work,), name="launch", daemon=True)
        finish: ev.Finish | None = None
        for action in self._supervisor.begin(time.monotonic(), time.time()):
            self._do(action)
        self._display.update(list(self._rows.values()))
        if self._here:
            launching.start()
        self._start_tracking()
        while finish is None:
            event = self._next_event()
            self._hands.note(event)
            self._refusals.note(event)
            for action in self._supervisor.handle(event, time.monotonic()):
                if isinstance(action, ev.Finish):
                    finish = action
                else:
                    self._do(action)
            if isinstance(event, control.MetricsReported):
                self._show_metrics(event)
            if isinstance(event, control.ResultReported) and event.result.get("stopped"):
                self._display.message(f"{event.worker} ended the job early: {event.result['stopped']}")
            self._display.update(list(self._rows.values()), self._supervisor.epochs())
        self._hands.let_go()
        if self._here:
            launching.join(LAUNCH_END)
        return finish

    def _reception(self) -> Reception:
        return Reception(
            cfg=self.cfg,
            plan=self.plan,
            folder=self.folder,
            parts=self.parts,
            controller=self._controller,
            security=self._security,
            launcher=self._launcher,
            here=self._here,
            joining=self._joining,
            say=self._display.message,
        )

    def _launch(self, work: Callable[[DictConfig], None]) -> None:
        """Call the launcher and post how that ended; runs in a thread of its own."""
        overrides = HydraConfig.get().overrides
        try:
            returns = launch_workers(
                self._launcher,
                config_loader=GlobalHydra.instance().config_loader(),
                config_name=HydraConfig.get().job.config_name,
                overrides=list(overrides.task),
                hydra_overrides=list(overrides.hydra),
                sweep_dir=self.folder.workers,
                names=self._here,
                rendezvous=self.folder.rendezvous,
                task_function=work,
                nodes=NODES,
            )
        except Exception as error:  # noqa: BLE001 - whatever a launcher raises fails the job by name
            self._events.put(ev.LaunchFailed(error=f"{type(error).__name__}: {error}", time=time.time()))
            return
        results = tuple(
            (name, each.status.name == "COMPLETED", "" if each.status.name == "COMPLETED" else str(each._return_value))  # noqa: SLF001 - `return_value` raises
            for name, each in zip(self._here, returns, strict=True)
        )
        self._events.put(ev.LaunchReturned(results=results, time=time.time()))

    def _observe(self, index: int, pid: int, what: str) -> None:
        self._events.put(ev.ProcessEvent(worker=self._here[index], pid=pid, what=what, time=time.time()))

    def _next_event(self) -> ev.Event:
        left = self._supervisor.deadline() - time.monotonic()
        try:
            return self._events.get(timeout=max(0.0, min(left, threading.TIMEOUT_MAX)))
        except queue.Empty:
            return ev.Tick(time=time.time())

    def _do(self, action: ev.Action) -> None:
        match action:
            case ev.RecordTask(record):
                self._tasks.append(record)
                self._rows[record.worker] = record
                if record.state == "restarting" and (record.round is not None or record.worker in self.plan.roots):
                    self.parts.resumed.add(record.worker)
                self._wake_tracker()
            case ev.RecordMetrics(records):
                for each in records:
                    self._metrics.append(each)
                self._wake_tracker()
            case ev.AbortJob(reason):
                self._controller.abort(reason)
            case ev.KillWorkers(workers, reason):
                self._display.message(f"killing {', '.join(workers)}: {reason}")
                cast("WorkerLauncher", self._launcher).kill()
            case ev.Warn(text, worker):
                log = self.folder.worker_log(worker)
                self._display.message(f"warning: {text}" + (f"; its log: {log}" if worker in self._here and log.exists() else ""))
            case _:
                self._hands.do(action)

    def _summarise(self, finish: ev.Finish) -> dict[str, Any]:
        summary = build_summary(self._supervisor.outcome(time.monotonic()), self.folder.checkpoints, self._resumed)
        self._security.report()
        refused = self._controller.refusals
        line = self._refusals.text(refused)
        write_summary(summary | ({} if line is None else {"security": self._refusals.content(refused)}), self.folder.summary)
        if line is not None:
            self._display.message(line)
        culprits = [name for name in finish.culprits if name in self._here]  # the logs of the others are at their sites
        if finish.error is not None and culprits:
            self._display.message(failure_text(finish.error, culprits, self.folder))
        return summary

    def _show_metrics(self, event: control.MetricsReported) -> None:
        values = {name: value for name, value in event.values.items() if name not in _NOT_SHOWN and not name.endswith(_MEASURES)}
        # A root that trains as well shows what the global model is worth, like any other.
        if self.plan.root_of(event.worker) is not None and values and "fit_seconds" not in event.values:
            self._display.metrics(event.round, values, event.worker if len(self.plan.roots) > 1 else "")

    def _start_tracking(self) -> None:
        tracking = self.cfg.tracking
        if tracking.enabled:
            settings = make_settings(
                tracking,
                run_dir=self.folder.path,
                working_dir=Path(HydraConfig.get().runtime.cwd),
                run_name=f"{self.plan.job_name}-{self.folder.path.name}",
                roots=self.plan.roots,
            )
            if self._resumed is not None and self._resumed.same_store:
                settings = in_same_store(settings)
            self._tracker = start_tracker(settings)

    def _wake_tracker(self) -> None:
        if self._tracker is not None:
            self._tracker.wake()

    def _end_tracking(self, display: Display) -> None:
        if self._tracker is None:
            return
        self._ending = True
        result = self._tracker.finish(self.cfg.tracking.timeout)
        for warning in result.warnings:
            display.message(f"warning: {warning}")
        if result.unsent:
            display.message(f"{result.unsent} metrics have not reached MLflow; `flame-run track {self.folder.path}` delivers them")
        display.message(f"MLflow: {result.ui_command}")


def _objective(metrics: dict[str, float], wanted: str | None) -> float | None:
    names = [wanted] if wanted else ["accuracy", "loss"]
    return next((metrics[name] for name in names if name in metrics), None)


@contextmanager
def _signals(post: Callable[[ev.StopRequested], None]) -> Iterator[None]:
    """Turn SIGINT, SIGTERM and SIGHUP into events; only the main thread of a process may."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(number: int, _: object) -> None:
        post(ev.StopRequested(signal=signal.Signals(number).name, time=time.time()))

    previous = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
