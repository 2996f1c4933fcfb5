"""From lists of overrides to the configurations of jobs, composing as few times as possible.

Composing costs 70 to 95 ms a job. The workers of a federated job differ in their name only, so one composition serves all.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hydra._internal.config_loader_impl import get_overrides_dirname
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf, open_dict, read_write


@dataclass(frozen=True, slots=True)
class Change:
    """The one value in which a job differs from the composed configuration."""

    key: str
    value: Any
    position: int
    """Its place in `hydra.overrides.task`."""
    line: str
    """The override as it was written."""
    dirname: str
    """`hydra.job.override_dirname` of this job."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobConfig:
    """The configuration of one job; jobs may share `base`."""

    base: DictConfig
    change: Change | None
    number: int
    """`hydra.job.num`."""
    label: str
    """What messages call this job: the value it differs in, else `job N`."""
    overrides: tuple[str, ...]

    def build(self) -> DictConfig:
        """Make a configuration of its own for this job, with `hydra.job.id` and `hydra.job.num` set."""
        config = copy.deepcopy(self.base)
        with read_write(config), open_dict(config):
            if self.change is not None:
                OmegaConf.update(config, self.change.key, self.change.value)
                config.hydra.overrides.task[self.change.position] = self.change.line
                config.hydra.job.override_dirname = self.change.dirname
            config.hydra.job.id = f"{config.hydra.job.name}_{self.number}"
            config.hydra.job.num = self.number
        return config


def compose_jobs(context: HydraContext, master: DictConfig, job_overrides: Sequence[Sequence[str]], first: int) -> list[JobConfig]:
    """Compose the configuration of each job.

    Args:
        context: holds the loader that `master` was composed with.
        master: the composed configuration of the whole launch.
        job_overrides: the overrides of each job.
        first: number of the first job.

    Raises:
        hydra.errors.ConfigCompositionException: an override that does not fit the configuration.

    """
    lists = [list(overrides) for overrides in job_overrides]
    parsed = [OverridesParser.create().parse_overrides(overrides) for overrides in lists]
    position = single_difference(parsed)
    if position is None:
        return [
            JobConfig(base=_load(context, master, each), change=None, number=number, label=f"job {number}", overrides=tuple(each))
            for number, each in enumerate(lists, first)
        ]
    base = _load(context, master, lists[0])
    # Overrides of Hydra itself are not recorded among those of the task.
    place = sum(not override.is_hydra_override() for override in parsed[0][:position])
    return [
        JobConfig(
            base=base,
            change=_change(base, overrides, position, place),
            number=number,
            label=str(overrides[position].value()),
            overrides=tuple(lists[number - first]),
        )
        for number, overrides in enumerate(parsed, first)
    ]


def single_difference(jobs: Sequence[Sequence[Override]]) -> int | None:
    """Index of the only override in which the jobs differ, if it sets one plain value of the task's own configuration.

    Only a dotted key qualifies: a key without a dot may choose a config group, which needs a composition.
    """
    if len(jobs) < 2 or len({len(job) for job in jobs}) != 1:  # noqa: PLR2004 - one job has nothing to share
        return None
    lines = [[override.input_line for override in job] for job in jobs]
    places = [i for i, column in enumerate(zip(*lines, strict=True)) if len(set(column)) > 1]
    if len(places) != 1:
        return None
    column = [job[places[0]] for job in jobs]
    keys = {override.key_or_group for override in column}
    return places[0] if len(keys) == 1 and all(map(_plain, column)) else None


def _plain(override: Override) -> bool:
    return (
        override.type is OverrideType.CHANGE
        and override.package is None
        and "." in override.key_or_group
        and "/" not in override.key_or_group
        and not override.is_hydra_override()
        and not override.is_sweep_override()
        and isinstance(override.value(), str | int | float | bool)
    )


def _change(base: DictConfig, overrides: Sequence[Override], position: int, place: int) -> Change:
    override = overrides[position]
    line = override.input_line
    if line is None:
        raise ValueError(f"an override of {override.key_or_group} without its text")
    options = base.hydra.job.config.override_dirname
    dirname = get_overrides_dirname(
        overrides=[each for each in overrides if not each.is_hydra_override()],
        exclude_keys=list(options.exclude_keys),
        item_sep=options.item_sep,
        kv_sep=options.kv_sep,
    )
    return Change(key=override.key_or_group, value=override.value(), position=place, line=line, dirname=dirname)


def _load(context: HydraContext, master: DictConfig, overrides: Sequence[str]) -> DictConfig:
    return context.config_loader.load_sweep_config(master, list(overrides))
