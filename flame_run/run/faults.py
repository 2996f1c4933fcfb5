"""The group `faults`: what happens when something goes wrong. One policy, typed for Hydra, free of heavy imports."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from flame_run.config.nodes import open_map
from flame_run.documents.spelling import legal_values
from flame_run.errors import Problem
from flame_run.topology.plan import Plan
from roles.tags import AGGREGATE, FETCH, RING_ALLREDUCE

ON_WORKER_LOSS = ("fail", "continue", "restart")
RESTARTING_LAUNCHERS = ("flame_run.launch.local.LocalLauncher", "flame_run.launch.external.ExternalLauncher")
"""The launchers that can start one worker anew, or wait for a site to do so."""
OF_A_CHANNEL = ("min_ends", "deadline")


@dataclass(kw_only=True)
class FaultsConf:
    """The options of the group `faults`."""

    min_ends: float | None = None
    """Ends that a round needs: a whole number from 1, or a fraction below 1 of those in the plan; null: all."""
    deadline: float | None = None
    """Seconds that a round waits for more once it has `min_ends`; null: as long as it takes."""
    on_worker_loss: str = "fail"
    """`fail`, `continue` or `restart`."""
    max_restarts: int = 3
    """How often each worker is restarted before its loss fails the job."""
    backoff: float = 0.5
    """Seconds before the first restart of a worker; doubles with each."""
    heartbeat: float = 30.0
    """Seconds of silence after which a worker is lost, or a broken connection is given up."""
    join_timeout: float = 120.0
    """Seconds from launching to the first round, or from a restart to the worker's being back."""
    rejoin_timeout: float = 30.0
    """Seconds that a round waits for an end whose connection broke, if it needs that end."""
    max_bad_updates: int | None = None
    """An end whose updates were refused this often in a row is excluded; null: never."""
    channels: dict[str, dict[str, float | None]] = field(default_factory=open_map)
    """Channel name -> its own `min_ends` and `deadline`."""


def check_faults(conf: FaultsConf, launcher: str = "") -> list[Problem]:
    """Everything that is wrong with `conf` by itself, or together with the `_target_` of the launcher."""
    problems = [
        *_check_policy(conf, launcher),
        *_check_round(conf.min_ends, conf.deadline, "faults"),
        *(
            Problem(f"faults.{key}", getattr(conf, key), "a time in seconds must be above 0", "a number such as 30")
            for key in ("heartbeat", "join_timeout", "rejoin_timeout")
            if not 0 < getattr(conf, key) < float("inf")
        ),
    ]
    if not 0 <= conf.backoff < float("inf"):
        problems.append(Problem("faults.backoff", conf.backoff, "a time in seconds must not be below 0", "a number such as 0.5"))
    if conf.max_bad_updates is not None and conf.max_bad_updates < 1:
        problems.append(Problem("faults.max_bad_updates", conf.max_bad_updates, "must be at least 1", "null: never"))
    return problems + list(_check_channels(conf.channels))


def _check_channels(channels: Any) -> Iterator[Problem]:
    """The types too: keys that Hydra lets people add are not checked by it."""
    if not isinstance(channels, Mapping):
        yield Problem("faults.channels", channels, "not a map of channels", "such as {param-channel: {min_ends: 2}}")
        return
    for channel, own in channels.items():
        place = f"faults.channels.{channel}"
        if own is not None and not isinstance(own, Mapping):
            yield Problem(place, own, "not a map", "such as {min_ends: 2, deadline: 30}")
            continue
        for key, value in (own or {}).items():
            if key not in OF_A_CHANNEL:
                yield Problem(f"{place}.{key}", value, "no such key", f"legal: {', '.join(OF_A_CHANNEL)}")
            elif value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
                yield Problem(f"{place}.{key}", value, "not a number", "a number, or null")
            else:
                yield from _check_round(**{"min_ends": None, "deadline": None, key: value}, place=place)


def _own(conf: FaultsConf) -> dict[str, Mapping[str, Any]]:
    """Channel name -> what is set for it, as far as it is well formed."""
    channels = conf.channels if isinstance(conf.channels, Mapping) else {}
    return {name: own for name, own in channels.items() if isinstance(own, Mapping)}


def check_faults_of_plan(conf: FaultsConf, plan: Plan) -> list[Problem]:
    """What cannot hold for the workers and channels of `plan`."""
    names = [channel.name for channel in plan.channels]
    unknown = [
        Problem(f"faults.channels.{name}", dict(own), "there is no such channel", legal_values(name, names))
        for name, own in _own(conf).items()
        if name not in names
    ]
    return unknown + list(_too_many_ends(conf, plan)) + list(_excluded_of_rings(conf, plan))


def of_channel(faults: Mapping[str, Any], channel: str) -> dict[str, Any]:
    """`min_ends` and `deadline` of one channel: its own where it has them, else the job's."""
    own = faults["channels"].get(channel) or {}
    return {key: own.get(key, faults[key]) for key in OF_A_CHANNEL}


def _check_policy(conf: FaultsConf, launcher: str) -> Iterator[Problem]:
    if conf.on_worker_loss not in ON_WORKER_LOSS:
        legal = f"legal: {', '.join(ON_WORKER_LOSS)}"
        yield Problem("faults.on_worker_loss", conf.on_worker_loss, "no such policy", legal)
    if conf.on_worker_loss == "restart" and launcher and launcher not in RESTARTING_LAUNCHERS:
        reason = f"{launcher.rpartition('.')[2]} cannot start one worker again"
        yield Problem("faults.on_worker_loss", "restart", reason, "legal: fail, continue; or launcher=local, launcher=external")
    if conf.max_restarts < 0:
        yield Problem("faults.max_restarts", conf.max_restarts, "must not be below 0", "a number such as 3")
    elif conf.on_worker_loss == "restart" and conf.max_restarts == 0:
        reason = "on_worker_loss=restart restarts no worker then"
        yield Problem("faults.max_restarts", 0, reason, "at least 1, or on_worker_loss=fail")


def _check_round(min_ends: float | None, deadline: float | None, place: str) -> Iterator[Problem]:
    legal = "a whole number from 1, a fraction between 0 and 1, or null: all"
    if min_ends is not None and not (0 < min_ends < 1 or (min_ends >= 1 and float(min_ends).is_integer())):
        yield Problem(f"{place}.min_ends", min_ends, "is neither a number nor a fraction of ends", legal)
    if deadline is not None and not 0 <= deadline < float("inf"):
        yield Problem(f"{place}.deadline", deadline, "a time in seconds must not be below 0", "null: no deadline")


def _too_many_ends(conf: FaultsConf, plan: Plan) -> Iterator[Problem]:
    """Wholes that an aggregator can never reach; one problem for each place that sets them."""
    told = set()
    for channel in plan.channels:
        own = _own(conf).get(channel.name, {})
        place = f"faults.channels.{channel.name}.min_ends" if "min_ends" in own else "faults.min_ends"
        least = own.get("min_ends", conf.min_ends)
        if not isinstance(least, int | float) or least < 1 or place in told:
            continue
        for worker in plan.workers:
            tags = channel.func_tags.get(worker.role, ())
            if not {AGGREGATE, RING_ALLREDUCE} & set(tags):
                continue
            # In a ring, the worker is one of those that count.
            ends = len(plan.ends(worker.name, channel.name)) + (RING_ALLREDUCE in tags)
            if ends < least:
                told.add(place)
                reason = f"{worker.name} has {ends} end{'s' * (ends != 1)} on channel {channel.name}"
                yield Problem(place, least, reason, f"at most {ends}, a fraction, or faults.channels.NAME.min_ends of each channel")
                break


def _excluded_of_rings(conf: FaultsConf, plan: Plan) -> Iterator[Problem]:
    """An excluded worker gets no more models, and the others of its ring would wait for it."""
    if conf.max_bad_updates is None:
        return
    bound = [(role, tags) for channel in plan.channels for role, tags in channel.func_tags.items()]
    fetching = {role for role, tags in bound if FETCH in tags}
    ring = next((role for role, tags in bound if RING_ALLREDUCE in tags and role in fetching), None)
    if ring is not None:
        reason = f"the workers of role {ring} wait for each other in their ring, so that none of them can be excluded"
        yield Problem("faults.max_bad_updates", conf.max_bad_updates, reason, "null")
