"""Why a job cannot be: told from what its topology is like and from the traits of its parts, not from what the runner answers."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from omegaconf import DictConfig

from flame_run.errors import Problem
from roles.catalogue import TRAITS, Traits

COORDINATED = {"mnist_coordinated", "coordinated_three_level", "coordinated_async"}
MIDDLES = {"mnist_hierarchical", "mnist_four_tier", "realms_three_tier", "async_hierarchical"} | COORDINATED
SEVERAL_COORDINATED_LEVELS = {"coordinated_three_level"}
RINGS = {"distributed", "hybrid"}
WITHOUT_SERVER = {"distributed"}
ROLES_THAT_SHARE_PARTS = {"two_consumers"}
GROUPS = ("algorithm", "selector", "sampler", "privacy")
BEYOND_THE_MEAN = {
    "groups": "tensors besides",
    "scalars": "numbers besides",
    "surveys": "asks",
    "asynchronous": "asynchronous",
    "needs_all_updates": "every update by itself",
    "differences": "differences",
}
"""Trait -> what a reason says of an algorithm that is more than a mean of weights for having it."""


@dataclass(frozen=True)
class Cause:
    """Why a job cannot be."""

    place: str
    """A regular expression of the keys at which it is told."""
    reason: str
    """One that the reason has a match of."""

    def explains(self, problem: Problem) -> bool:
        """Whether `problem` tells it."""
        return bool(re.fullmatch(self.place, problem.place) and re.search(self.reason, problem.reason, re.IGNORECASE))


def causes(experiment: str, cfg: DictConfig) -> list[Cause]:
    """All there are; none for a job that has to run."""
    traits = {group: TRAITS[cfg[group]._target_] for group in GROUPS}
    protected = cfg.privacy._target_.endswith(".DifferentialPrivacy")
    return [
        *_of_sums(experiment, traits),
        *_of_coordination(experiment, traits),
        *_of_rings(experiment, traits, protected=protected),
        *_of_time(traits),
        *(_of_privacy(experiment, traits) if protected else ()),
        *_of_parts(experiment, traits, str(cfg.algorithm._target_).rpartition(".")[2]),
    ]


def unexplained(problems: Sequence[Problem], expected: Sequence[Cause]) -> list[str]:
    """The problems that have another cause, and the keys at which a cause should have been told and was not."""
    strange = [str(problem) for problem in problems if not any(cause.explains(problem) for cause in expected)]
    untold = {cause.place for cause in expected} - {
        cause.place for cause in expected for problem in problems if cause.explains(problem)
    }
    return strange + sorted(untold)


def _of_sums(experiment: str, traits: Mapping[str, Traits]) -> Iterator[Cause]:
    if experiment not in MIDDLES:
        return
    if not traits["algorithm"].mergeable or traits["algorithm"].needs_all_updates:
        yield Cause("algorithm", "every update.*middle aggregators.*sums")
    for group in ("selector", "sampler"):
        if traits[group].hears:
            yield Cause(group, "single trainers.*middle aggregators.*sums")


def _of_coordination(experiment: str, traits: Mapping[str, Traits]) -> Iterator[Cause]:
    if experiment not in COORDINATED:
        return
    if traits["selector"].selects:
        yield Cause("selector", "takes part.*coordinator")
    if traits["algorithm"].surveys:
        yield Cause("algorithm", "asks twice.*coordinator")
    if traits["algorithm"].asynchronous and experiment in SEVERAL_COORDINATED_LEVELS:
        yield Cause("algorithm", "asynchronous.*coordinator.*one level")


def _of_rings(experiment: str, traits: Mapping[str, Traits], *, protected: bool) -> Iterator[Cause]:
    if experiment not in RINGS:
        return
    if experiment in WITHOUT_SERVER and not traits["algorithm"].serverless:
        yield Cause("algorithm", "server.*has none")
    elif not traits["algorithm"].plain:
        yield Cause("algorithm", f"({_beyond(traits['algorithm'])}).*ring")
    if traits["selector"].selects:
        yield Cause("selector", "all workers.*ring")
    if traits["sampler"].hears:
        yield Cause("sampler", "single trainers.*ring")
    if protected:
        yield Cause("privacy", "exchange parts of their weights")


def _beyond(algorithm: Traits) -> str:
    found = [text for trait, text in BEYOND_THE_MEAN.items() if getattr(algorithm, trait)]
    return "|".join(found or ["weights updates in its own way"])


def _of_time(traits: Mapping[str, Traits]) -> Iterator[Cause]:
    if not traits["algorithm"].asynchronous:
        return
    if traits["selector"].selects:
        yield Cause("selector", "asynchronous.*free")
    if traits["sampler"].hears:
        yield Cause("sampler", "whole rounds.*asynchronous")


def _of_privacy(experiment: str, traits: Mapping[str, Traits]) -> Iterator[Cause]:
    """What would get no noise, or too little."""
    algorithm = traits["algorithm"]
    if algorithm.scalars:
        yield Cause("privacy", "numbers about single trainers|how far its steps went")
    if algorithm.surveys:
        yield Cause("privacy", "asks every trainer")
    if algorithm.needs_all_updates:
        yield Cause("privacy", "every update by itself")
    if any(traits[group].hears for group in ("selector", "sampler")):
        yield Cause("privacy", "numbers that single trainers report")
    if experiment in ROLES_THAT_SHARE_PARTS:
        yield Cause("privacy", "only some roles share")


def _of_parts(experiment: str, traits: Mapping[str, Traits], name: str) -> Iterator[Cause]:
    if experiment in ROLES_THAT_SHARE_PARTS and not traits["algorithm"].plain:
        yield Cause(r"job\.roles\.[\w-]+\.share", f"{name} .*all trainers need all entries")
