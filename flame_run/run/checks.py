"""From the composed configuration to a valid plan: the documents, the groups, and what only both together can tell."""

import math
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from flame_run.config.codecs import check_codecs
from flame_run.config.part import stand_in
from flame_run.config.targets import check_targets
from flame_run.data.urls import check_url
from flame_run.documents.load import load_document
from flame_run.errors import InvalidConfig, Problem
from flame_run.launch.external import check_external, started_here
from flame_run.run.algorithms import PARTS, check_fit, check_parts
from flame_run.run.faults import check_faults, check_faults_of_plan
from flame_run.run.launchers import check_launcher
from flame_run.run.null_round import check_null_round
from flame_run.run.simulated import check_simulated
from flame_run.run.trainer_options import check_trainer
from flame_run.security.config import check_security
from flame_run.topology.build import plan_or_problems
from flame_run.topology.plan import AT_SITE, Plan


def plan_of(cfg: DictConfig) -> Plan:
    """Validate everything and expand the job.

    Raises:
        InvalidConfig: with every problem of the documents and of the groups.
    """
    problems: list[Problem] = []
    import_from(cfg.python_path)
    OmegaConf.register_new_resolver("worker", stand_in, replace=True)  # what a role's own data may name
    schema, dataset, job = _document(cfg, "schema", problems), _document(cfg, "dataset", problems), _node(cfg, "job", problems)
    for name, document in (("schema", schema), ("dataset", dataset), ("job", job)):
        problems += _not_finite(document, name)
    plan, wrong = plan_or_problems(schema, dataset, job, check_url=_check_url)
    if plan is not None and cfg.model.get("data") is None:
        here = started_here(cfg, plan)  # a site may bring its own
        needy = sorted({each.role for each in plan.workers if each.name in here and plan.code[each.role] == "roles.Trainer"})
        if needy:
            reason = f"the workers of role {', '.join(needy)} have nothing to train on"
            wrong = [*wrong, Problem("model.data", None, reason, "the `_target_` of a LightningDataModule")]
    problems += wrong + _group_problems(cfg)
    if plan is not None:
        problems += _channel_problems(cfg, plan) + check_faults_of_plan(cfg.faults, plan)
        problems += check_external(cfg, plan)
        problems += check_simulated(job, [worker.name for worker in plan.workers])
    if plan is not None and not problems:
        problems += check_fit(cfg, plan)
    codecs = _node(cfg, "transport", problems)
    problems += [] if codecs is None else check_codecs(codecs["codec"], plan)
    if problems or plan is None:
        raise InvalidConfig(problems)
    return plan


def _check_url(url: str) -> str | None:
    return None if url.startswith(AT_SITE) else check_url(url)


def import_from(folders: Sequence[str]) -> None:
    """Let this process import from `folders`, the first before the others, before everything else."""
    for folder in reversed([os.path.abspath(each) for each in folders]):  # noqa: PTH100 - a text from the configuration
        if folder not in sys.path:
            sys.path.insert(0, folder)


def _document(cfg: DictConfig, name: str, problems: list[Problem]) -> Any:
    path = cfg.get(f"{name}_file")
    if path is None:
        return _node(cfg, name, problems)
    try:
        return load_document(Path(path), place=f"{name}_file")
    except InvalidConfig as error:
        problems += error.problems
        return None


def _node(cfg: DictConfig, name: str, problems: list[Problem]) -> Any:
    try:
        node = cfg.get(name)
        return OmegaConf.to_container(node, resolve=True, throw_on_missing=True) if OmegaConf.is_config(node) else node
    except OmegaConfBaseException as error:
        problems.append(Problem(error.full_key or name, "", str(error).splitlines()[0]))
        return None


def is_debug(cfg: DictConfig) -> bool:
    """Whether the workers will be threads of this process."""
    return str(cfg.launcher.get("_target_", "")).endswith("DebugLauncher")


def _channel_problems(cfg: DictConfig, plan: Plan) -> list[Problem]:
    if is_debug(cfg) or cfg.transport.backend.name != "auto":
        return []
    legal = "legal: auto, grpc, shm; or launcher=debug"
    return [
        Problem(
            f"schema.channels[{at}].backend (channel {each.name})", "inproc", "the workers of this launcher are processes", legal
        )
        for at, each in enumerate(plan.channels)
        if each.backend == "inproc"
    ]


def _not_finite(node: Any, place: str) -> Iterator[Problem]:
    """NaN and infinity pass every comparison of a JSON Schema, or fail none."""
    if isinstance(node, Mapping):
        for key, value in node.items():
            yield from _not_finite(value, f"{place}.{key}")
    elif isinstance(node, list):
        for index, value in enumerate(node):
            yield from _not_finite(value, f"{place}[{index}]")
    elif isinstance(node, float) and not math.isfinite(node):
        yield Problem(place, node, "not a finite number")


def _group_problems(cfg: DictConfig) -> list[Problem]:
    problems = [*check_faults(cfg.faults, str(cfg.launcher.get("_target_", ""))), *check_null_round(cfg.null_round)]
    problems += check_security(cfg.security)
    if cfg.model.get("module") is None:
        problems.append(Problem("model.module", None, "there is nothing to train", "the `_target_` of a LightningModule"))
    roles = cfg.job.get("roles") if isinstance(cfg.job, DictConfig) else None
    own = [f"job.roles.{role!s}.model" for role in (roles if isinstance(roles, DictConfig) else ())]
    for place in ("model.module", "model.data", "model.trainer", *PARTS, *own):
        node = OmegaConf.select(cfg, place)
        problems += check_targets(OmegaConf.to_container(node) if OmegaConf.is_config(node) else None, place)
    problems += check_trainer(OmegaConf.to_container(cfg.model.trainer), "model.trainer")  # type: ignore[arg-type]
    problems += check_launcher(cfg.launcher)
    return problems + check_parts(cfg) + _backend_problems(cfg) + _number_problems(cfg) + _path_problems(cfg)


def _backend_problems(cfg: DictConfig) -> list[Problem]:
    backend, debug = cfg.transport.backend.name, is_debug(cfg)
    if backend == "inproc" and not debug:
        legal = "legal: auto, grpc, shm; or launcher=debug"
        return [Problem("transport.backend", backend, "the workers of this launcher are processes", legal)]
    if backend in ("grpc", "shm") and debug:
        reason = "the workers of launcher=debug are threads of one process"
        return [Problem("transport.backend", backend, reason, "legal: auto, inproc")]
    return []


def _number_problems(cfg: DictConfig) -> list[Problem]:
    least = {
        "transport": {"port": 0, "chunk_bytes": 1, "max_message_bytes": 1, "max_tensors": 1},
        "checkpoint": {"every": 0, "keep": 2},  # where the newest is torn, a run goes on from the one before
    }
    most = {"port": (2**16 - 1, "no such port"), "chunk_bytes": (2**24, "more than a piece of a message may have")}
    large = [
        Problem(f"transport.{key}", cfg.transport[key], reason, f"up to {bound}")
        for key, (bound, reason) in most.items()
        if cfg.transport[key] > bound
    ]
    return large + [
        Problem(f"{group}.{key}", cfg[group][key], f"must be at least {bound}")
        for group, bounds in least.items()
        for key, bound in bounds.items()
        if cfg[group][key] < bound
    ]


def _path_problems(cfg: DictConfig) -> list[Problem]:
    missing = [folder for folder in cfg.python_path if not os.path.isdir(folder)]  # noqa: PTH112 - a text from the configuration
    problems = [Problem("python_path", folder, "there is no such folder") for folder in missing]
    base = cfg.job.get("baseModel") if isinstance(cfg.job, DictConfig) else None
    path = base.get("path") if isinstance(base, DictConfig) else None
    if path is not None and not Path(str(path)).is_file():
        problems.append(Problem("job.baseModel.path", path, "there is no such file", "a file that holds a state_dict"))
    return problems
