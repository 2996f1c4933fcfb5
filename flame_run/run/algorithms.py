"""Whether algorithm, selector, sampler and privacy fit the topology and each other, told from their traits; no torch."""

import importlib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, Final

from omegaconf import DictConfig, OmegaConf

from flame_run.errors import Problem
from flame_run.run.part_values import check_values
from flame_run.topology.plan import Plan
from roles.catalogue import TRAITS, Traits
from roles.tags import (
    COORDINATE,
    COORDINATE_WITH,
    COORDINATE_WITH_MIDDLE,
    COORDINATE_WITH_TOP,
    COORDINATE_WITH_TRAINER,
    DISTRIBUTE,
    FETCH,
    RING_ALLREDUCE,
)

PARTS: Final = {
    "algorithm": ("roles.algorithms.", "the `_target_` of a roles.strategy.Strategy"),
    "selector": ("roles.selectors.", "the `_target_` of a roles.selectors.selector.Selector"),
    "sampler": ("roles.samplers.", "the `_target_` of a roles.samplers.sampler.Sampler"),
    "privacy": ("roles.privacy.", "the `_target_` of a roles.privacy.privacy.Privacy"),
}
"""Group -> where its shipped classes are, and what it takes."""
DEFAULTS: Final = {"selector": "all", "sampler": "all", "privacy": "none"}


def check_parts(cfg: DictConfig) -> list[Problem]:
    """What is wrong with the four groups by themselves."""
    return [problem for group in PARTS if (problem := _check(group, _target(cfg, group))) is not None]


def _target(cfg: DictConfig, group: str) -> Any:
    return OmegaConf.select(cfg, f"{group}._target_")


def _check(group: str, target: Any) -> Problem | None:
    home, legal = PARTS[group]
    if not isinstance(target, str):
        return Problem(f"{group}._target_", target, "names no class", legal)
    other = next((each for each, (prefix, _) in PARTS.items() if each != group and target.startswith(prefix)), None)
    if target in TRAITS and not target.startswith(home):
        return Problem(f"{group}._target_", target, f"is of the group {other}", legal)
    return None


def check_fit(cfg: DictConfig, plan: Plan) -> list[Problem]:
    """What the topology cannot serve, and what cannot be combined. The groups are right by themselves."""
    traits = {group: _traits(str(_target(cfg, group))) for group in PARTS}
    inner = OmegaConf.select(cfg, "selector.inner._target_")
    if inner is not None and _traits(str(inner)).hears:
        traits["selector"] = replace(traits["selector"], hears=True)
    shape = _Shape(plan)
    rules = (_of_levels, _of_coordinators, _of_rings, _of_combinations, _of_privacy, _of_buffers, _of_shares)
    misfits = [problem for rule in rules for problem in rule(cfg, traits, shape)]
    return misfits or [problem for group in PARTS for problem in check_values(cfg, group, plan)]


def _traits(target: str) -> Traits:
    """Those of a shipped class from the list; a class of the user's own is asked, and found wanting elsewhere."""
    if target in TRAITS:
        return TRAITS[target]
    from flame_run import torchvision_guard  # noqa: PLC0415 - imports torch, which shipped classes do not need here

    torchvision_guard.install()
    module, _, name = target.rpartition(".")
    found = getattr(getattr(importlib.import_module(module), name), "traits", None)
    return found if isinstance(found, Traits) else Traits()


class _Shape:
    """What the rules ask of a plan."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.tags: dict[str, set[str]] = {}
        for channel in plan.channels:
            for role, tags in channel.func_tags.items():
                self.tags.setdefault(role, set()).update(tags)
        self.middles = [role for role, tags in self.tags.items() if {DISTRIBUTE, FETCH} <= tags]
        self.coordinated = any(COORDINATE in tags for tags in self.tags.values())
        self.coordinates = {tag for tags in self.tags.values() for tag in tags if tag.startswith(COORDINATE_WITH)}
        self.rings = [role for role, tags in self.tags.items() if RING_ALLREDUCE in tags]
        self.serves = any(DISTRIBUTE in tags for tags in self.tags.values())


def _name(cfg: DictConfig, group: str) -> str:
    return str(_target(cfg, group)).rpartition(".")[2]


def _problem(cfg: DictConfig, group: str, reason: str, legal: str = "") -> Problem:
    legal = legal or (f"{group}={DEFAULTS[group]}" if group in DEFAULTS else "such as algorithm=fedavg")
    return Problem(group, _name(cfg, group), reason, legal)


def _of_levels(cfg: DictConfig, traits: Mapping[str, Traits], shape: _Shape) -> Iterator[Problem]:
    if not shape.middles:
        return
    middle = shape.middles[0]
    if not traits["algorithm"].mergeable:
        yield _problem(cfg, "algorithm", f"needs every update by itself, and the middle aggregators ({middle}) pass on sums")
    for group in ("selector", "sampler"):
        if traits[group].hears:
            yield _problem(cfg, group, f"looks at single trainers at the root, and the middle aggregators ({middle}) pass on sums")


def _of_coordinators(cfg: DictConfig, traits: Mapping[str, Traits], shape: _Shape) -> Iterator[Problem]:
    if shape.coordinated and traits["selector"].selects:
        yield _problem(cfg, "selector", "who takes part in a round is for the coordinator to say in this topology")
    if shape.coordinated and traits["algorithm"].surveys:
        yield _problem(cfg, "algorithm", "asks twice in a round, and the coordinator maps trainers once")
    if not (shape.coordinated and traits["algorithm"].asynchronous):
        return
    if shape.coordinates - {COORDINATE_WITH_TOP, COORDINATE_WITH_MIDDLE, COORDINATE_WITH_TRAINER}:
        yield _problem(cfg, "algorithm", "is asynchronous, and a coordinator lends trainers to one level of aggregators only")
    if OmegaConf.select(cfg, "job.simulatedTime") is not None:
        reason = "the coordinator lends trainers to whoever asks first, which no virtual clock decides"
        yield Problem("job.simulatedTime", OmegaConf.to_container(cfg.job.simulatedTime), reason, "null")


def _of_rings(cfg: DictConfig, traits: Mapping[str, Traits], shape: _Shape) -> Iterator[Problem]:
    if not shape.rings:
        return
    ring, algorithm = shape.rings[0], traits["algorithm"]
    if not shape.serves and not algorithm.serverless:
        yield _problem(cfg, "algorithm", "takes a step at a server, and this topology has none", "algorithm=fedavg or fedprox")
    elif not algorithm.plain:
        reason = f"sends more than weights averaged by samples, and the ring of role {ring} averages just these"
        yield _problem(cfg, "algorithm", reason)
    if algorithm.asynchronous:
        yield _problem(cfg, "algorithm", f"is asynchronous, and the workers of role {ring} wait for each other in their ring")
    if traits["selector"].selects:
        yield _problem(cfg, "selector", f"all workers of role {ring} are needed in their ring")
    if traits["sampler"].hears:
        yield _problem(cfg, "sampler", f"looks at single trainers, and the ring of role {ring} averages them")
    if _name(cfg, "privacy") != "Open":
        yield _problem(cfg, "privacy", f"the workers of role {ring} exchange parts of their weights with each other")
    if OmegaConf.select(cfg, "job.simulatedTime") is not None:
        value = OmegaConf.to_container(cfg.job.simulatedTime)
        yield Problem("job.simulatedTime", value, f"the ring of role {ring} knows no virtual clock", "null")


def _of_combinations(cfg: DictConfig, traits: Mapping[str, Traits], shape: _Shape) -> Iterator[Problem]:
    algorithm, codecs = traits["algorithm"], OmegaConf.select(cfg, "transport.codec") or {}
    if algorithm.asynchronous and traits["selector"].selects:
        yield _problem(cfg, "selector", "an asynchronous aggregator asks whoever is free; see algorithm.concurrency")
    if algorithm.asynchronous and traits["sampler"].hears:
        yield _problem(cfg, "sampler", "steers whole rounds, and an asynchronous job has none")
    if traits["selector"].closes and traits["sampler"].hears:
        yield _problem(cfg, "selector", f"closes a round with the first updates, {_name(cfg, 'sampler')} at its deadline")
    if algorithm.surveys and algorithm.asynchronous:
        yield _problem(cfg, "algorithm", "asks everybody before they train, which an asynchronous job cannot")
    if codecs and algorithm.groups:
        reason = f"{_name(cfg, 'algorithm')} sends tensors besides the weights, which codecs do not encode"
        yield Problem("transport.codec", sorted(map(str, codecs)), reason, "{}")
    elif codecs and algorithm.differences and "delta" in str(codecs):
        reason = f"the updates of {_name(cfg, 'algorithm')} are differences already"
        yield Problem("transport.codec", sorted(map(str, codecs)), reason, "codecs without delta")
    if codecs and _serves_several(shape):
        reason = "an aggregator hands models down on several channels, which take them as they are"
        yield Problem("transport.codec", sorted(map(str, codecs)), reason, "{}")


def _of_privacy(cfg: DictConfig, traits: Mapping[str, Traits], shape: _Shape) -> Iterator[Problem]:  # noqa: ARG001 - a rule
    if _name(cfg, "privacy") == "Open":
        return
    algorithm, name = traits["algorithm"], _name(cfg, "algorithm")
    if algorithm.groups or algorithm.scalars or algorithm.surveys:
        yield _problem(cfg, "privacy", f"{name} sends more than the weights, which would not be protected")
    for group in ("selector", "sampler"):
        if traits[group].hears:
            yield _problem(
                cfg, "privacy", f"{_name(cfg, group)} looks at what single trainers report, which would not be protected"
            )
    if any((own or {}).get("share") for own in (OmegaConf.select(cfg, "job.roles") or {}).values()):
        yield _problem(cfg, "privacy", "an entry that only some roles share would get too little noise; see job.roles.ROLE.share")
    if algorithm.asynchronous and OmegaConf.select(cfg, "privacy.sampling") not in (None, "none"):
        reason = f"who takes part in a round of {name} is not drawn at random"
        yield Problem("privacy.sampling", OmegaConf.select(cfg, "privacy.sampling"), reason, "none")
    if OmegaConf.select(cfg, "transport.codec"):
        yield Problem("transport.codec", "", "codecs change updates after they were clipped", "{}, or privacy=none")


def _serves_several(shape: _Shape) -> bool:
    bound: dict[str, int] = {}
    for channel in shape.plan.channels:
        for role, tags in channel.func_tags.items():
            bound[role] = bound.get(role, 0) + (DISTRIBUTE in tags)
    return any(count > 1 for count in bound.values())


def _of_buffers(cfg: DictConfig, traits: Mapping[str, Traits], shape: _Shape) -> Iterator[Problem]:
    if not traits["algorithm"].asynchronous:
        return
    bounds = {"faults": cfg.faults, **{f"faults.channels.{name}": own for name, own in cfg.faults.channels.items()}}
    for where, bound in bounds.items():
        if (bound or {}).get("deadline") is not None:
            reason = f"a round of {_name(cfg, 'algorithm')} closes with its updates, whenever they come"
            yield Problem(f"{where}.deadline", bound.deadline, reason, "null")
    if OmegaConf.select(cfg, "algorithm.repeat"):
        return
    for name in (worker.name for worker in shape.plan.workers):
        channels = shape.plan.distributes_on(name)
        ends = sum(len(shape.plan.ends(name, channel)) for channel in channels)
        own = name not in shape.plan.roots and OmegaConf.select(cfg, "algorithm.middle_k") is not None
        key = "algorithm.middle_k" if own else "algorithm.k"
        size = OmegaConf.select(cfg, key)
        if channels and isinstance(size, int) and size > ends:
            reason = f"{name} has {ends} end{'s' * (ends != 1)}, and each counts once in a buffer"
            yield Problem(key, size, reason, f"at most {ends}, or algorithm.repeat=true")


def _of_shares(cfg: DictConfig, traits: Mapping[str, Traits], shape: _Shape) -> Iterator[Problem]:
    roles = OmegaConf.select(cfg, "job.roles") or {}
    for role, own in roles.items():
        share = (own or {}).get("share")
        if not share:
            continue
        where = f"job.roles.{role}.share"
        if not any(worker.role == role and worker.dataset is not None for worker in shape.plan.workers):
            yield Problem(where, "", "only data consumers exchange a part of the model", "a role with isDataConsumer: true")
        whole = OmegaConf.select(cfg, "job.share.include") or ["*"]
        if "include" in share and list(whole) != ["*"]:
            reason = "the job and the role both say what is exchanged"
            yield Problem(f"{where}.include", list(share.include), reason, "one of the two; job.share.exclude holds for all")
        above = {each for channel in shape.plan.channels if role in channel.pair for each in channel.pair if each != role}
        if above & set(shape.middles):
            yield Problem(where, "", "the sums of middle aggregators hold all entries", "roles whose updates go to the root")
        if not traits["algorithm"].plain:
            yield Problem(where, "", f"{_name(cfg, 'algorithm')} needs all entries of all trainers", "such as algorithm=fedavg")
        if OmegaConf.select(cfg, "transport.codec"):
            yield Problem(where, "", "codecs encode the whole model", "transport.codec={}")
