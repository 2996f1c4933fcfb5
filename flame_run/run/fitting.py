"""What the rules of fit share: the classes chosen for the four groups, their traits, and what a plan looks like to them."""

import importlib
from typing import Any, Final

from omegaconf import DictConfig, OmegaConf

from flame_run.errors import Problem
from flame_run.topology.plan import Plan
from roles.catalogue import TRAITS, Traits
from roles.tags import COORDINATE, COORDINATE_WITH, DISTRIBUTE, FETCH, RING_ALLREDUCE

DEFAULTS: Final = {"selector": "all", "sampler": "all", "privacy": "none"}


def target_of(cfg: DictConfig, group: str) -> Any:
    """The import path of the class that is chosen for `group`."""
    return OmegaConf.select(cfg, f"{group}._target_")


def name_of(cfg: DictConfig, group: str) -> str:
    """The name of that class."""
    return str(target_of(cfg, group)).rpartition(".")[2]


def misfit(cfg: DictConfig, group: str, reason: str, legal: str = "") -> Problem:
    """The choice made for `group` does not fit, for `reason`."""
    legal = legal or (f"{group}={DEFAULTS[group]}" if group in DEFAULTS else "such as algorithm=fedavg")
    return Problem(group, name_of(cfg, group), reason, legal)


def traits_of(target: str) -> Traits:
    """Those of a shipped class from the list; a class of the user's own is asked, and found wanting elsewhere."""
    if target in TRAITS:
        return TRAITS[target]
    from flame_run import torchvision_guard  # noqa: PLC0415 - imports torch, which shipped classes do not need here

    torchvision_guard.install()
    module, _, name = target.rpartition(".")
    found = getattr(getattr(importlib.import_module(module), name), "traits", None)
    return found if isinstance(found, Traits) else Traits()


class Shape:
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

    def ends(self, worker: str) -> int:
        """How many workers get their models from `worker`."""
        return sum(len(self.plan.ends(worker, channel)) for channel in self.plan.distributes_on(worker))
