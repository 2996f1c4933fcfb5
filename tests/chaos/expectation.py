"""What a job has to make of a fault: a pure function of who suffers, where, how, and of the policy."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from tests.chaos.scenarios import MOMENT, Scenario
from tests.chaos.shapes import Shape

Model = Literal["same", "survivors", "none"]
"""The bits of an undisturbed run; what those who are left make of it; nothing is said of it."""
LATE = ("ending", MOMENT)
"""Places at which the job may be as good as done: what is lost there may not matter any more."""
CAUSES = {
    "SIGKILL": ("was killed by SIGKILL",),
    "SIGSEGV": ("was killed by SIGSEGV",),
    "SIGSTOP": ("was silent for", "started but not registered", "was not ready within", "was not back within"),
    "raise:RuntimeError": ("RuntimeError: chaos",),
    "raise:MemoryError": ("MemoryError: chaos",),
    "unpicklable": ("Unpicklable: chaos",),
    "exit:0": ("SystemExit: 0", "exit status 0", "sys.exit(0)"),
    "exit:3": ("SystemExit: 3", "exit status 3", "sys.exit(3)"),
}
"""Fault -> the words of which one tells it."""

BEFORE_THE_LOG = "ended with exit status 1 before it registered"
"""What is known of an error in a process that has no log yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """One way in which a job may end."""

    exit: int
    status: str | None
    """Of `summary.json`; None: there is none."""
    states: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """Worker -> the states of which it is in one; who is not named has completed or, in a failed job, was terminated."""
    said: tuple[str, ...] = ()
    """Words of which one is said of the victim, by name: in the error of a failed job, else in a warning."""
    model: Model = "none"
    resumes: bool = False
    """`flame-run resume` then completes the job, with the bits of an undisturbed run."""
    why_not: str = ""
    """Words of the error that say why the job did not go on."""


def expect(scenario: Scenario, here: Shape) -> list[Expected]:
    """Every ending that is right; more than one only where the fault races with the end of the job."""
    if scenario.of_runner:
        return _of_runner(scenario)
    lost = _when_lost(scenario, here)
    if scenario.point in LATE:
        return [lost, *_too_late(scenario, here)]
    return [lost]


def _of_runner(scenario: Scenario) -> list[Expected]:
    if scenario.fault == "runner:SIGTERM":
        interrupted = Expected(exit=130, status="terminated", resumes=True, said=("interrupted by SIGTERM",))
        late = [Expected(exit=0, status="completed", model="same")] if scenario.point in LATE else []
        return [interrupted, *late]
    return [Expected(exit=-9, status=None, resumes=True)]


def _when_lost(scenario: Scenario, here: Shape) -> Expected:
    said = (*CAUSES[scenario.fault], *((BEFORE_THE_LOG,) if scenario.point == "registering" else ()))
    victim = {scenario.worker: frozenset({"failed"})}
    if scenario.policy == "restart":
        return Expected(exit=0, status="completed", said=said, model="same")
    if scenario.policy == "fail":
        # One that never registered is not known to be the culprit when the wait for the first round ends.
        frozen = frozenset({"failed", "terminated"})
        states = {scenario.worker: frozen} if scenario.point in {"registering", MOMENT} and scenario.freezes else victim
        return Expected(exit=1, status="failed", said=said, states=states, resumes=True)
    if essential(scenario.worker, here):
        why_not = "the job cannot go on without it"
        return Expected(exit=1, status="failed", said=said, states=victim, resumes=True, why_not=why_not)
    ways = frozenset({"failed", "completed"}) if scenario.point in LATE else frozenset({"failed"})
    stranded = dict.fromkeys(here.stranded(scenario.worker), ways)
    return Expected(exit=0, status="completed", said=said, states={**stranded, **victim}, model="survivors")


def _too_late(scenario: Scenario, here: Shape) -> list[Expected]:
    """The job had its result when the worker was lost, or the worker had completed."""
    everyone = frozenset({"completed", "failed"})
    if scenario.policy == "fail":
        return [Expected(exit=0, status="completed", model="same")] if scenario.point == MOMENT else []
    states = {worker: everyone for worker in here.kinds if worker == scenario.worker or worker in here.stranded(scenario.worker)}
    return [Expected(exit=0, status="completed", states=states, model="same")]


def essential(worker: str, here: Shape) -> bool:
    """Whether a job that goes on without lost workers cannot go on without this one."""
    return here.kinds[worker] == "coordinator" or here.of_kind("root") == [worker]
