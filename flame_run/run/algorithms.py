"""Whether algorithm, selector, sampler and privacy fit the topology and each other, told from their traits; no torch."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, Final

from omegaconf import DictConfig, OmegaConf

from flame_run.errors import Problem
from flame_run.run.fitting import Shape, misfit, name_of, target_of, traits_of
from flame_run.run.part_values import check_values
from flame_run.run.privacy_fit import noisy, of_privacy
from flame_run.topology.plan import Plan
from roles.catalogue import TRAITS, Traits
from roles.tags import COORDINATE_WITH_MIDDLE, COORDINATE_WITH_TOP, COORDINATE_WITH_TRAINER, DISTRIBUTE

PARTS: Final = {
    "algorithm": ("roles.algorithms.", "the `_target_` of a roles.strategy.Strategy"),
    "selector": ("roles.selectors.", "the `_target_` of a roles.selectors.selector.Selector"),
    "sampler": ("roles.samplers.", "the `_target_` of a roles.samplers.sampler.Sampler"),
    "privacy": ("roles.privacy.", "the `_target_` of a roles.privacy.privacy.Privacy"),
}
"""Group -> where its shipped classes are, and what it takes."""
MORE_THAN_PLAIN: Final = {
    "groups": "sends tensors besides the weights",
    "scalars": "sends numbers besides the weights",
    "surveys": "asks all trainers about the model before they train",
    "differences": "sends differences instead of weights",
    "needs_all_updates": "looks at every update by itself",
}
"""Trait -> what an algorithm that has it does besides averaging trained weights; the first one counts."""
OF_THE_WHOLE: Final = {
    "FedBuff": "divides every entry by all updates of a buffer",
    "FedAsync": "moves the whole global model towards each update",
    "FedNova": "scales every entry by the steps of all trainers",
    "FedDyn": "corrects every entry by the number of all trainers in the round",
    "FedGFT": "asks all trainers about the same whole model",
}
"""Shipped algorithm -> why its trainers cannot exchange different parts of the model."""


def check_parts(cfg: DictConfig) -> list[Problem]:
    """What is wrong with the four groups by themselves."""
    return [problem for group in PARTS if (problem := _check(group, target_of(cfg, group))) is not None]


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
    traits = {group: traits_of(str(target_of(cfg, group))) for group in PARTS}
    inner = OmegaConf.select(cfg, "selector.inner._target_")
    if inner is not None and traits_of(str(inner)).hears:
        traits["selector"] = replace(traits["selector"], hears=True)
    shape = Shape(plan)
    rules = (_of_levels, _of_coordinators, _of_rings, _of_combinations, of_privacy, _of_buffers, _of_shares)
    misfits = [problem for rule in rules for problem in rule(cfg, traits, shape)]
    if misfits:
        return misfits  # numbers of what cannot be anyway are beside the point
    sizes = list(_of_buffer_sizes(cfg, shape)) if traits["algorithm"].asynchronous else []
    return sizes + [problem for group in PARTS for problem in check_values(cfg, group, plan)]


def _of_levels(cfg: DictConfig, traits: Mapping[str, Traits], shape: Shape) -> Iterator[Problem]:
    if not shape.middles:
        return
    middle = shape.middles[0]
    if not traits["algorithm"].passes_sums:
        yield misfit(cfg, "algorithm", f"needs every update by itself, and the middle aggregators ({middle}) pass on sums")
    for group in ("selector", "sampler"):
        if traits[group].hears:
            yield misfit(cfg, group, f"looks at single trainers at the root, and the middle aggregators ({middle}) pass on sums")


def _of_coordinators(cfg: DictConfig, traits: Mapping[str, Traits], shape: Shape) -> Iterator[Problem]:
    if shape.coordinated and traits["selector"].selects:
        yield misfit(cfg, "selector", "who takes part in a round is for the coordinator to say in this topology")
    if shape.coordinated and traits["algorithm"].surveys:
        yield misfit(cfg, "algorithm", "asks twice in a round, and the coordinator maps trainers once")
    if not (shape.coordinated and traits["algorithm"].asynchronous):
        return
    if shape.coordinates - {COORDINATE_WITH_TOP, COORDINATE_WITH_MIDDLE, COORDINATE_WITH_TRAINER}:
        yield misfit(cfg, "algorithm", "is asynchronous, and a coordinator lends trainers to one level of aggregators only")
    if OmegaConf.select(cfg, "job.simulatedTime") is not None:
        reason = "the coordinator lends trainers to whoever asks first, which no virtual clock decides"
        yield Problem("job.simulatedTime", OmegaConf.to_container(cfg.job.simulatedTime), reason, "null")


def _of_rings(cfg: DictConfig, traits: Mapping[str, Traits], shape: Shape) -> Iterator[Problem]:
    if not shape.rings:
        return
    ring, algorithm = shape.rings[0], traits["algorithm"]
    if not shape.serves and not algorithm.serverless:
        yield misfit(cfg, "algorithm", "takes a step at a server, and this topology has none", "algorithm=fedavg or fedprox")
    elif algorithm.asynchronous:
        yield misfit(cfg, "algorithm", f"is asynchronous, and the workers of role {ring} wait for each other in their ring")
    elif not algorithm.plain:
        reason = f"{_more_than_plain(cfg, algorithm)}, and the ring of role {ring} averages trained weights as the job says"
        yield misfit(cfg, "algorithm", reason)
    if traits["selector"].selects:
        yield misfit(cfg, "selector", f"all workers of role {ring} are needed in their ring")
    if traits["sampler"].hears:
        yield misfit(cfg, "sampler", f"looks at single trainers, and the ring of role {ring} averages them")
    if name_of(cfg, "privacy") != "Open":
        yield misfit(cfg, "privacy", f"the workers of role {ring} exchange parts of their weights with each other")
    if OmegaConf.select(cfg, "job.simulatedTime") is not None:
        value = OmegaConf.to_container(cfg.job.simulatedTime)
        yield Problem("job.simulatedTime", value, f"the ring of role {ring} knows no virtual clock", "null")


def _more_than_plain(cfg: DictConfig, algorithm: Traits) -> str:
    """What keeps an algorithm from being the mean of trained weights, weighted as the job says."""
    for trait, reason in MORE_THAN_PLAIN.items():
        if getattr(algorithm, trait):
            return reason
    own = target_of(cfg, "algorithm") not in TRAITS
    return "does not say that it is plain (see roles/catalogue.py)" if own else "weights updates in its own way"


def _of_combinations(cfg: DictConfig, traits: Mapping[str, Traits], shape: Shape) -> Iterator[Problem]:
    algorithm, codecs = traits["algorithm"], OmegaConf.select(cfg, "transport.codec") or {}
    if algorithm.asynchronous and traits["selector"].selects:
        yield misfit(cfg, "selector", "an asynchronous aggregator asks whoever is free; see algorithm.concurrency")
    if algorithm.asynchronous and traits["sampler"].hears:
        yield misfit(cfg, "sampler", "steers whole rounds, and an asynchronous job has none")
    if traits["selector"].closes and traits["sampler"].hears:
        yield misfit(cfg, "selector", f"closes a round with the first updates, {name_of(cfg, 'sampler')} at its deadline")
    if algorithm.surveys and algorithm.asynchronous:
        yield misfit(cfg, "algorithm", "asks everybody before they train, which an asynchronous job cannot")
    if codecs and algorithm.groups:
        reason = f"{name_of(cfg, 'algorithm')} sends tensors besides the weights, which codecs do not encode"
        yield Problem("transport.codec", sorted(map(str, codecs)), reason, "{}")
    elif codecs and algorithm.differences and "delta" in str(codecs):
        reason = f"the updates of {name_of(cfg, 'algorithm')} are differences already"
        yield Problem("transport.codec", sorted(map(str, codecs)), reason, "codecs without delta")
    if codecs and _serves_several(shape):
        reason = "an aggregator hands models down on several channels, which take them as they are"
        yield Problem("transport.codec", sorted(map(str, codecs)), reason, "{}")


def _serves_several(shape: Shape) -> bool:
    bound: dict[str, int] = {}
    for channel in shape.plan.channels:
        for role, tags in channel.func_tags.items():
            bound[role] = bound.get(role, 0) + (DISTRIBUTE in tags)
    return any(count > 1 for count in bound.values())


def _of_buffers(cfg: DictConfig, traits: Mapping[str, Traits], shape: Shape) -> Iterator[Problem]:  # noqa: ARG001 - a rule
    if not traits["algorithm"].asynchronous:
        return
    bounds = {"faults": cfg.faults, **{f"faults.channels.{name}": own for name, own in cfg.faults.channels.items()}}
    for where, bound in bounds.items():
        if (bound or {}).get("deadline") is not None:
            reason = f"a round of {name_of(cfg, 'algorithm')} closes with its updates, whenever they come"
            yield Problem(f"{where}.deadline", bound.deadline, reason, "null")


def _of_buffer_sizes(cfg: DictConfig, shape: Shape) -> Iterator[Problem]:
    """One problem for each key, whoever it is too large for."""
    if OmegaConf.select(cfg, "algorithm.repeat"):
        return
    small: dict[str, list[tuple[int, str]]] = {}
    for name in (worker.name for worker in shape.plan.workers if shape.plan.distributes_on(worker.name)):
        own = name not in shape.plan.roots and OmegaConf.select(cfg, "algorithm.middle_k") is not None
        key, ends = "algorithm.middle_k" if own else "algorithm.k", shape.ends(name)
        size = OmegaConf.select(cfg, key)
        if isinstance(size, int) and size > ends:
            small.setdefault(key, []).append((ends, name))
    for key, found in small.items():
        (ends, name), others, size = min(found, key=lambda each: each[0]), len(found) - 1, OmegaConf.select(cfg, key)
        more = f" (and {others} other aggregator{'s' * (others != 1)} fewer than {size})" if others else ""
        reason = f"{name} has {ends} end{'s' * (ends != 1)}{more}, and each counts once in a buffer"
        # The noise of a sum is for one update of each client.
        yield Problem(key, size, reason, f"at most {ends}{'' if noisy(cfg) else ', or algorithm.repeat=true'}")


def _of_shares(cfg: DictConfig, traits: Mapping[str, Traits], shape: Shape) -> Iterator[Problem]:
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
            name = name_of(cfg, "algorithm")
            shipped = OF_THE_WHOLE.get(name) if target_of(cfg, "algorithm") in TRAITS else None
            reason = shipped or _more_than_plain(cfg, traits["algorithm"])
            yield Problem(where, "", f"{name} {reason}, so that all trainers need all entries", "such as algorithm=fedavg")
        if OmegaConf.select(cfg, "transport.codec"):
            yield Problem(where, "", "codecs encode the whole model", "transport.codec={}")
