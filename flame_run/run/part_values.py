"""Whether the values of algorithm, selector, sampler and privacy are legal: asked of the classes themselves.

That imports torch and Lightning, so it is only done where a value is not as shipped.
"""

import inspect
from collections.abc import Iterator, Mapping
from typing import Any, Final

import yaml
from omegaconf import DictConfig, OmegaConf

from flame_run.config.folder import conf_dir
from flame_run.documents.spelling import legal_values
from flame_run.errors import Problem
from flame_run.run.kinds_of_values import mistyped
from flame_run.run.privacy_fit import of_sums
from flame_run.topology.plan import Plan

INCOMPLETE: Final = ("roles.algorithms.fedgft.FedGFT", "roles.selectors.trace.Trace")
"""Shipped classes whose defaults lack what only the user can say."""


def check_values(cfg: DictConfig, group: str, plan: Plan) -> list[Problem]:
    """What is wrong with the values of one group; its `_target_` has been found."""
    node: dict[str, Any] = dict(OmegaConf.to_container(cfg[group], resolve=True))  # type: ignore[arg-type]
    if _as_shipped(group, OmegaConf.to_container(cfg[group])) and node["_target_"] not in INCOMPLETE:
        return []
    from flame_run import torchvision_guard  # noqa: PLC0415 - see the module

    torchvision_guard.install()
    return list(_check(cfg, group, node, plan))


def _as_shipped(group: str, node: Any) -> bool:
    return any(yaml.safe_load(path.read_text(encoding="utf-8")) == node for path in (conf_dir() / group).glob("*.yaml"))


def _check(cfg: DictConfig, group: str, node: Mapping[str, Any], plan: Plan) -> Iterator[Problem]:
    from hydra.errors import InstantiationException  # noqa: PLC0415
    from hydra.utils import get_class, instantiate  # noqa: PLC0415

    from roles.part import Part  # noqa: PLC0415

    target = str(node["_target_"])
    try:
        found = get_class(target)
    except Exception as error:  # noqa: BLE001 - a user's module may raise anything; it is told, not hidden
        yield Problem(f"{group}._target_", target, f"cannot be imported: {error}")
        return
    if not issubclass(found, Part):
        yield Problem(f"{group}._target_", target, "is no roles.part.Part", "a class with a server half, see roles/part.py")
        return
    keys = inspect.signature(found).parameters
    unknown = [key for key in node if not key.startswith("_") and key not in keys]
    if unknown and not any(each.kind is each.VAR_KEYWORD for each in keys.values()):
        for key in unknown:
            yield Problem(f"{group}.{key}", node[key], f"{found.__name__} has no such key", legal_values(key, list(keys)))
        return
    wrong = list(mistyped(found, node, group))
    if wrong:
        yield from wrong
        return
    try:
        part = instantiate(node)
        if group == "privacy":
            _begin(part, plan, cfg.job.get("seed", 0))
    except InstantiationException as error:
        yield Problem(group, found.__name__, str(error.__cause__ or error).splitlines()[0])
    except (TypeError, ValueError) as error:
        yield Problem(group, found.__name__, str(error))
    else:
        yield from of_sums(cfg, part) if group == "algorithm" else ()


def _begin(part: Any, plan: Plan, seed: int) -> None:
    """Begin it as each root will: its values depend on how many clients that has."""
    from roles.part import About  # noqa: PLC0415

    for population in sorted({len(plan.below(root)) or len(plan.workers) for root in plan.roots}):
        part.begin(About(start={}, parameters=frozenset(), population=population, seed=seed))
