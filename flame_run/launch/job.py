"""The jobs of a worker process, mostly one: what it is given, how they run, what it hands back.

Payload and result lie in anonymous memory files (`memfd_create`) whose descriptors travel over the private socket of the fork
server. Writing them never waits for the other side, whatever state that is in.
"""

import atexit
import os
import pickle
import struct
import sys
import threading
import traceback
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Self

import cloudpickle
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus, run_job, setup_globals
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from flame_run.launch.compose import JobConfig
from flame_run.launch.errors import ResultLost, WorkerDied
from flame_run.launch.linux import describe_exit
from flame_run.launch.plain import is_plain, run_plainly
from flame_run.launch.threads import make_baton, run_all, run_in_thread
from flame_run.launch.turns import RECORD_BYTES, TurnMark

_LENGTH = struct.Struct("<q")
_DATA = RECORD_BYTES + _LENGTH.size
"""Where the content of a memory file begins: behind who has the turn (see `TurnMark`), and its length."""
PROGRAM = "flame-run-worker"
"""What workers find in `sys.argv`. Libraries that start helpers by running the program again would start the job again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What all workers of a launch share."""

    context: HydraContext | None
    """None: the jobs are plain, see `run_plainly`."""
    task: TaskFunction
    jobs: tuple[JobConfig, ...]
    hands: tuple[tuple[int, ...], ...]
    """The jobs of each process, by their indices."""
    long_turn: float | None = None
    """Seconds after which a turn is a long one, for jobs that share a process."""
    singletons: Any
    """`Singleton.get_state()` of the runner."""

    @classmethod
    def of(
        cls,
        context: HydraContext,
        task: TaskFunction,
        config: DictConfig,
        jobs: Sequence[JobConfig],
        hands: Sequence[tuple[int, ...]],
        *,
        long_turn: float | None = None,
    ) -> Self:
        """Make the work of a launch with this configuration, with the state that Hydra has in this process."""
        singletons = Singleton.get_state()
        # Every job has its own.
        instances = {kind: instance for kind, instance in singletons["instances"].items() if kind is not HydraConfig}
        kept = None if is_plain(context, config) else context
        state = {**singletons, "instances": instances}
        return cls(context=kept, task=task, jobs=tuple(jobs), hands=tuple(hands), long_turn=long_turn, singletons=state)


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """The runner's process state, applied before `work` is unpickled."""

    environment: Mapping[str, str]
    folder: str
    path: Sequence[str]
    work: bytes


def write_payload(work: Work) -> int:
    """Pickle `work` with this process's environment into a new memory file; returns its descriptor, which the caller closes."""
    payload = Surroundings(
        environment=dict(os.environ),
        folder=os.getcwd(),  # noqa: PTH109 - a text
        path=list(sys.path),
        work=cloudpickle.dumps(work),
    )
    descriptor = os.memfd_create("flame-run-payload")
    _write(descriptor, pickle.dumps(payload))
    return descriptor


def read_results(descriptor: int) -> list[JobReturn] | None:
    """Read what a process wrote into its result file, one result a job; None if it ended before it could."""
    data = _read(descriptor)
    return None if data is None else [_unpack(*packed) for packed in pickle.loads(data)]  # noqa: S301 - written by our own child


def _unpack(summary: str, pickled: bytes) -> JobReturn:
    try:
        result: JobReturn = pickle.loads(pickled)  # noqa: S301
    except Exception as error:  # noqa: BLE001 - a user's class may raise anything; the worker's own text is kept
        reason = f"{type(error).__name__}: {error}"
        return JobReturn(status=JobStatus.FAILED, _return_value=ResultLost(f"cannot be read back ({reason}): {summary}"))
    return result


def scan_plugins() -> None:
    """Let Hydra find its plugins: once in the fork server, before anything of theirs is unpickled."""
    Plugins.instance()


def run_jobs_of_payload(payload: int, result: int, number: int) -> int:
    """Run hand `number` of the payload in this process and write its results; returns the exit status of the process."""
    data = _read(payload)
    if data is None:
        raise WorkerDied("the payload of the worker is incomplete")
    surroundings: Surroundings = pickle.loads(data)  # noqa: S301 - written by our own parent process
    _adopt(surroundings)
    try:
        work: Work = cloudpickle.loads(surroundings.work)
        outcomes = _run(work, [work.jobs[index] for index in work.hands[number]], result)
    except BaseException as error:  # noqa: BLE001 - whatever ends the job is its result
        outcomes = [_failed(error)]
    _write(result, pickle.dumps([_pack(outcome) for outcome in outcomes]))
    code = max(exit_status(outcome) for outcome in outcomes)
    # The end of an ordinary Python process without tearing down its modules, which would copy all shared pages.
    threading._shutdown()  # type: ignore[attr-defined] # noqa: SLF001 - as multiprocessing ends its children
    atexit._run_exitfuncs()  # noqa: SLF001
    return code


def exit_status(outcome: JobReturn) -> int:
    """The exit status of a process that ran only this job; minus the signal that ended it."""
    code = int(outcome.status is not JobStatus.COMPLETED)
    if isinstance(outcome._return_value, WorkerDied):  # noqa: SLF001 - the property raises for failed jobs
        own = outcome._return_value.exit_code  # noqa: SLF001
        return code if own is None else own
    return code


def _adopt(surroundings: Surroundings) -> None:
    for name in os.environ.keys() - surroundings.environment.keys():
        del os.environ[name]
    os.environ.update(surroundings.environment)
    os.chdir(surroundings.folder)
    sys.path[:] = surroundings.path
    sys.argv[:] = [PROGRAM]


def _run(work: Work, jobs: Sequence[JobConfig], result: int) -> list[JobReturn]:
    setup_globals()
    # Finding none, Hydra would scan for plugins again, which executes their modules anew and makes their classes strangers.
    work.singletons["instances"][Plugins] = Plugins.instance()
    Singleton.set_state(work.singletons)
    if len(jobs) == 1:
        return [_run_alone(work, _noted(work.task), jobs[0])]
    gate = make_baton(TurnMark(result), work.long_turn)
    together = getattr(work.task, "together", None)
    with nullcontext(work.task) if together is None else together(gate) as task:
        return run_all(jobs, partial(_run_beside, work, _noted(task)), gate)


def _noted(task: TaskFunction) -> TaskFunction:
    """`task`, whose errors say where they were raised."""

    def noted(config: DictConfig) -> Any:
        try:
            return task(config)
        except SystemExit as stop:
            raise exited(stop) from stop
        except Exception as error:
            error.add_note(f"Raised in worker process {os.getpid()}:\n{traceback.format_exc()}")
            raise

    return noted


def _run_alone(work: Work, task: TaskFunction, job: JobConfig) -> JobReturn:
    if work.context is None:
        return run_plainly(task, job)
    config = job.build()
    HydraConfig.instance().set_config(config)
    return run_job(
        task_function=task,
        config=config,
        job_dir_key="hydra.sweep.dir",
        job_subdir_key="hydra.sweep.subdir",
        hydra_context=work.context,
    )


def _run_beside(work: Work, task: TaskFunction, job: JobConfig) -> JobReturn:
    return run_plainly(task, job) if work.context is None else run_in_thread(job, work.context, task)


def exited(stop: SystemExit) -> WorkerDied:
    """Follow the rule of the interpreter: None is 0, a number is itself, anything else is printed and means 1."""
    if stop.code is None or isinstance(stop.code, int):
        code = stop.code or 0
        return WorkerDied(f"ended by sys.exit({'' if stop.code is None else stop.code})", exit_code=code & 0xFF)
    return WorkerDied(f"ended by sys.exit({stop.code!r})", exit_code=1)


def _failed(error: BaseException) -> JobReturn:
    if not isinstance(error, Exception):
        error = WorkerDied("".join(traceback.format_exception(error)).rstrip(), exit_code=1)
    return JobReturn(status=JobStatus.FAILED, _return_value=error)


def died(job: JobConfig, process: int | None, code: int | None, reason: str = "") -> JobReturn:
    """Make the result of a job whose process ended without one.

    Args:
        job: the job.
        process: its process id, None if it was never started.
        code: exit status or minus the signal, None if not known.
        reason: more to say.

    """
    who = f"{job.label} (process {process})" if process is not None else f"{job.label} (never started)"
    how = describe_exit(code) if code is not None else "ended"
    text = f"{who}: {how}{', ' + reason if reason else ''}" if process is not None else f"{who}: {reason}"
    return JobReturn(overrides=list(job.overrides), status=JobStatus.FAILED, _return_value=WorkerDied(text, exit_code=code))


def portable(value: Any) -> ResultLost | None:
    """Check that a result or exception survives a trip to another process; what to send instead where it does not."""
    try:
        # An exception class can pickle and still not unpickle.
        pickle.loads(_dumps(value))  # noqa: S301
    except Exception as why:  # noqa: BLE001 - a user's object may raise anything here
        return ResultLost(f"cannot be pickled ({type(why).__name__}: {why}): {_summary(value)}")
    return None


def _summary(value: Any) -> str:
    if isinstance(value, BaseException):
        return "".join(traceback.format_exception(value)).rstrip()
    return f"a result of type {type(value).__qualname__}"


def _pack(outcome: JobReturn) -> tuple[str, bytes]:
    """Pickle a result, with a text that stands in for it where it cannot be read back."""
    value = outcome._return_value  # noqa: SLF001 - the property raises for failed jobs
    lost = portable(value)
    if lost is not None:
        outcome = replace(outcome, status=JobStatus.FAILED, _return_value=lost)
    return _summary(value), _dumps(outcome)


def _dumps(value: Any) -> bytes:
    """Pickle plainly where that works: cloudpickle, for classes of a script and closures, takes 0.14 s CPU beside torch."""
    try:
        return pickle.dumps(value)
    except (pickle.PicklingError, AttributeError, TypeError):
        return bytes(cloudpickle.dumps(value))


def _write(descriptor: int, data: bytes) -> None:
    """Write the length last: a file without it is incomplete."""
    view = memoryview(data)
    done = 0
    while done < len(view):
        done += os.pwrite(descriptor, view[done:], _DATA + done)
    os.pwrite(descriptor, _LENGTH.pack(len(data)), RECORD_BYTES)


def _read(descriptor: int) -> bytes | None:
    head = os.pread(descriptor, _LENGTH.size, RECORD_BYTES)
    if len(head) < _LENGTH.size:
        return None
    (length,) = _LENGTH.unpack(head)
    data = bytearray()
    while len(data) < length:
        piece = os.pread(descriptor, length - len(data), _DATA + len(data))
        if not piece:
            return None
        data += piece
    return bytes(data) if length else None
