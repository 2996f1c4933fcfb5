"""From the composed configuration to a valid plan: the documents, the groups, and what only both together can tell."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from flame_run.data.urls import check_url
from flame_run.documents.load import load_document
from flame_run.errors import InvalidConfig, Problem
from flame_run.run.faults import check_faults
from flame_run.topology.build import plan_or_problems
from flame_run.topology.plan import Plan

SERVED = {"selector": ("kind", "all"), "sampler": ("kind", "all"), "privacy": ("kind", "none"), "security": ("kind", "token")}
"""Group -> its key and the one value that this version serves."""


def plan_of(cfg: DictConfig) -> Plan:
    """Validate everything and expand the job.

    Raises:
        InvalidConfig: with every problem of the documents and of the groups.
    """
    problems: list[Problem] = []
    import_from(cfg.python_path)
    schema, dataset, job = _document(cfg, "schema", problems), _document(cfg, "dataset", problems), _node(cfg, "job", problems)
    plan, wrong = plan_or_problems(schema, dataset, job, check_url=check_url)
    problems += wrong + _group_problems(cfg)
    if problems or plan is None:
        raise InvalidConfig(problems)
    return plan


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


def _group_problems(cfg: DictConfig) -> list[Problem]:
    problems = check_faults(cfg.faults)
    for group, (key, value) in SERVED.items():
        node = cfg.get(group)
        given = node.get(key) if node is not None else None
        if given != value:
            problems.append(Problem(f"{group}.{key}", given, "this version does not serve it", f"legal: {value}"))
    debug = str(cfg.launcher.get("_target_", "")).endswith("DebugLauncher")
    backend = cfg.transport.backend.name
    if backend == "inproc" and not debug:
        problems.append(
            Problem(
                "transport.backend", backend, "the workers of this launcher are processes", "legal: auto, grpc; or launcher=debug"
            )
        )
    if backend == "grpc" and debug:
        problems.append(
            Problem("transport.backend", backend, "the workers of launcher=debug are threads of one process", "legal: auto, inproc")
        )
    if cfg.model.get("module") is None:
        problems.append(Problem("model.module", None, "there is nothing to train", "the `_target_` of a LightningModule"))
    for key in ("chunk_bytes", "max_message_bytes", "max_tensors"):
        if cfg.transport[key] < 1:
            problems.append(Problem(f"transport.{key}", cfg.transport[key], "must be at least 1"))
    for key, least in (("every", 0), ("keep", 1)):
        if cfg.checkpoint[key] < least:
            problems.append(Problem(f"checkpoint.{key}", cfg.checkpoint[key], f"must be at least {least}"))
    missing = [folder for folder in cfg.python_path if not os.path.isdir(folder)]  # noqa: PTH112 - a text from the configuration
    problems += [Problem("python_path", folder, "there is no such folder") for folder in missing]
    return problems
