"""A worker's part of the configuration: resolved once per role by the runner, completed per worker by the worker."""

import re
from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from flame_run.errors import InvalidConfig, Problem

KEYS = (
    "job",
    "algorithm",
    "selector",
    "sampler",
    "privacy",
    "model",
    "transport",
    "faults",
    "checkpoint",
    "security",
    "python_path",
)
"""Groups that workers need. Tracking stays with the runner."""
PLACEHOLDER = re.compile(r"\$\{worker:([\w.-]+)\}")
"""What only the worker can fill in; names of channels may hold a hyphen."""


def stand_in(key: str) -> str:
    """Resolve `${worker:KEY}` to itself: only the worker can fill it in, see `fill`."""
    return f"${{worker:{key}}}"


def role_config(cfg: DictConfig, role: str) -> dict[str, Any]:
    """The configuration of `role` with everything resolved but `${worker:...}`, which stays as text.

    What `job.roles.ROLE` says (`hyperparameters`, `threads`, `share`, `model`) replaces the job's own before anything refers to
    it.

    Raises:
        InvalidConfig: an interpolation that leads nowhere.
    """
    OmegaConf.register_new_resolver("worker", stand_in, replace=True)
    own = cfg.copy()
    OmegaConf.set_struct(own, value=False)
    special = OmegaConf.select(own, f"job.roles.{role}.hyperparameters")
    if special is not None:
        own.job.hyperparameters = OmegaConf.merge(own.job.hyperparameters or {}, special)
    threads = OmegaConf.select(own, f"job.roles.{role}.threads")
    if threads is not None:
        own.job.threads = threads
    share = OmegaConf.select(own, f"job.roles.{role}.share")
    if share:
        own.job.share = narrowed(own.job.get("share") or {}, share)
    for key in ("module", "data"):
        node = OmegaConf.select(own, f"job.roles.{role}.model.{key}")
        if node is not None:
            own.model[key] = node
    resolved: dict[str, Any] = {}
    for key in KEYS:
        try:
            node = own.get(key)
            resolved[key] = OmegaConf.to_container(node, resolve=True, enum_to_str=True) if OmegaConf.is_config(node) else node
        except OmegaConfBaseException as error:
            place = error.full_key or key
            raise InvalidConfig([Problem(place, "", str(error).splitlines()[0])]) from error
    return resolved


def narrowed(share: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """`job.share` as it is for a role with a `share` of its own: what either excludes is excluded."""
    return {**share, **own, "exclude": [*(share.get("exclude") or ()), *(own.get("exclude") or ())]}


def fill(value: Any, worker: Mapping[str, Any]) -> Any:
    """`value` with each `${worker:KEY}` replaced; one that stands alone keeps the type of what it stands for.

    Raises:
        KeyError: a key that this worker has not.
    """
    if isinstance(value, Mapping):
        return {key: fill(inner, worker) for key, inner in value.items()}
    if isinstance(value, list):
        return [fill(inner, worker) for inner in value]
    if not isinstance(value, str):
        return value
    alone = PLACEHOLDER.fullmatch(value)
    if alone:
        return worker[alone[1]]
    return PLACEHOLDER.sub(lambda match: str(worker[match[1]]), value)
