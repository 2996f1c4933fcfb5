"""The group `faults`: what happens when something goes wrong. One policy, typed for Hydra, free of heavy imports."""

from dataclasses import dataclass

from flame_run.errors import Problem

ON_WORKER_LOSS = ("fail", "continue", "restart")


@dataclass(kw_only=True)
class FaultsConf:
    """The options of the group `faults`."""

    min_ends: float | None = None
    """Ends that a round needs: a whole number from 1, or a fraction below 1 of those in the plan; null: all."""
    deadline: float | None = None
    """Seconds that a round waits for more once it has `min_ends`; null: as long as it takes."""
    on_worker_loss: str = "fail"
    """`fail`, `continue` or `restart`."""
    max_restarts: int = 0
    """How often a worker is restarted before its loss fails the job."""
    heartbeat: float = 30.0
    """Seconds of silence after which a worker is lost."""
    join_timeout: float = 120.0
    """Seconds from launching to the first round."""


def check_faults(conf: FaultsConf) -> list[Problem]:
    """Everything that is wrong with `conf`, or that this version does not serve."""
    problems = [
        Problem(f"faults.{key}", value, "a time in seconds must be above 0", "a number such as 30")
        for key, value in (("heartbeat", conf.heartbeat), ("join_timeout", conf.join_timeout))
        if not 0 < value < float("inf")
    ]
    if conf.on_worker_loss not in ON_WORKER_LOSS:
        legal = f"legal: {', '.join(ON_WORKER_LOSS)}"
        problems.append(Problem("faults.on_worker_loss", conf.on_worker_loss, "no such policy", legal))
    elif conf.on_worker_loss != "fail":
        problems.append(_not_served("on_worker_loss", conf.on_worker_loss, "a lost worker always fails the job", "fail"))
    if conf.min_ends is not None:
        problems.append(_not_served("min_ends", conf.min_ends, "a round always needs all of its ends", "null"))
    if conf.deadline is not None:
        problems.append(_not_served("deadline", conf.deadline, "a round always waits for all of its ends", "null"))
    if conf.max_restarts != 0:
        problems.append(_not_served("max_restarts", conf.max_restarts, "workers are never restarted", "0"))
    return problems


def _not_served(key: str, value: object, instead: str, legal: str) -> Problem:
    return Problem(f"faults.{key}", value, f"this version does not serve it: {instead}", f"legal: {legal}")
