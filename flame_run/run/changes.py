"""What a resumed run may have different from before, and what it may not."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig, OmegaConf

from flame_run.errors import Problem

FIXED: Mapping[str, str] = {
    "schema": "the workers of a run stay the same",
    "schema_file": "the workers of a run stay the same",
    "dataset": "the data of a run stay the same",
    "dataset_file": "the data of a run stay the same",
    "job.id": "a run keeps its id",
    "job.name": "a run keeps its name",
    "job.seed": "all randomness of a run derives from its seed",
    "job.code": "the workers of a run stay the same",
    "job.baseModel": "the run goes on from its checkpoint, not from a base model",
    "job.share": "the model has been averaged by it from the first round on",
    "job.optimizer": "optimizers have been kept, or not, from the first round on",
    "model.module": "the checkpoint holds the weights of the model that the run began with",
    "algorithm._target_": "the checkpoint holds the state of the algorithm that the run began with",
}
"""Key -> why it cannot change."""
FREE = (
    "job.hyperparameters.rounds",
    "job.maxRunTime",
    "job.description",
    "job.priority",
    "job.evaluate",
    "job.stop",
    "checkpoint",
    "faults",
    "tracking",
    "launcher",
    "security",
    "python_path",
    "port",
    "worker",
    "transport",
)
"""Keys that do not touch how the rounds are computed."""
NOT_FREE = ("transport.codec",)
"""Exceptions of `FREE`."""


@dataclass(frozen=True, slots=True)
class Change:
    """One value that differs."""

    key: str
    before: Any
    now: Any


def changes(before: DictConfig, now: DictConfig) -> list[Change]:
    """Every value that differs, by its full key; interpolations count as they are written."""
    old, new = dict(_leaves(_plain(before))), dict(_leaves(_plain(now)))
    keys = [*new, *(key for key in old if key not in new)]
    return [Change(key, old.get(key), new.get(key)) for key in keys if old.get(key) != new.get(key)]


def refused(found: list[Change]) -> list[Problem]:
    """A problem for each change that cannot be."""
    problems = []
    for change in found:
        why = next((reason for key, reason in FIXED.items() if _below(change.key, key)), None)
        if why is not None:
            legal = f"it was {change.before!r}; for another value start a new run"
            problems.append(Problem(change.key, change.now, f"cannot change in a run that is resumed: {why}", legal))
    return problems


def noteworthy(found: list[Change]) -> list[Change]:
    """The changes after which the rounds to come are computed in another way than those before."""
    return [
        change
        for change in found
        if any(_below(change.key, key) for key in NOT_FREE) or not any(_below(change.key, key) for key in FREE)
    ]


def changed(found: list[Change], key: str) -> bool:
    """Whether a value at or below `key` differs."""
    return any(_below(change.key, key) for change in found)


def _below(key: str, parent: str) -> bool:
    return key == parent or key.startswith(f"{parent}.")


def _plain(config: DictConfig) -> Any:
    # Through YAML, so that both sides have had the same done to them.
    return OmegaConf.to_container(OmegaConf.create(OmegaConf.to_yaml(config)), resolve=False)


def _leaves(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if not isinstance(node, Mapping) or not node:
        yield prefix.rstrip("."), node
        return
    for key, value in node.items():
        yield from _leaves(value, f"{prefix}{key}.")
