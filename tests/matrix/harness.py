"""Whole jobs from their configuration, without processes: composed, validated, expanded, run as threads of the test."""

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import hydra
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig

from flame_run.config.folder import conf_dir
from flame_run.config.groups import register
from flame_run.control.session import Session
from flame_run.launch.baton import RANDOM, Baton
from flame_run.run.assemble import Assembly
from flame_run.run.checks import plan_of
from flame_run.run.folder import RunFolder
from flame_run.run.in_runner import InRunner
from flame_run.run.parts import Parts
from transports.inproc import Hub

PATIENCE = 120.0
"""Seconds after which a job that does not end fails the test."""


def composed(*overrides: str) -> DictConfig:
    """The configuration as the command line composes it."""
    register()
    GlobalHydra.instance().clear()
    with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return hydra.compose("config", ["python_path=[]", "tracking=none", *overrides])


@dataclass
class Record:
    """What one worker reported."""

    rounds: list[int] = field(default_factory=list)
    metrics: list[tuple[int, dict[str, float]]] = field(default_factory=list)
    results: list[dict[str, Any]] = field(default_factory=list)
    error: BaseException | None = None


class _Line:
    """The session of a worker that has nobody to talk to: it writes down what is said."""

    security = None

    def __init__(self, record: Record) -> None:
        self._record = record

    def state(self, state: str, *, round_: int | None = None, **_: Any) -> None:
        if state == "running" and round_ is not None:
            self._record.rounds.append(round_)

    def progress(self, epoch: int, epochs: int) -> None:
        """Nobody looks."""

    def metrics(self, round_: int, values: Mapping[str, float]) -> None:
        self._record.metrics.append((round_, dict(values)))

    def result(self, values: Mapping[str, Any]) -> None:
        self._record.results.append(dict(values))


def run(cfg: DictConfig, folder: Path) -> dict[str, Record]:
    """Validate, expand and run a job; worker -> what it reported.

    Raises:
        InvalidConfig: the job is no valid one.
        AssertionError: somebody was still there after `PATIENCE` seconds.
    """
    plan = plan_of(cfg)
    parts = Parts(plan, cfg, RunFolder(folder), "token")
    hub, baton = Hub(), Baton(RANDOM)
    records = {worker.name: Record() for worker in plan.workers}
    assemblies: dict[str, Assembly] = {}
    lost: dict[str, str] = {}

    def work(name: str, line_formed: threading.Event) -> None:
        with baton.held(on_line=line_formed.set):
            try:
                workplace = InRunner(controller=cast("Any", None), hub=hub, gate=baton)
                assemblies[name] = assembly = Assembly(parts(name), cast("Session", _Line(records[name])), workplace)
                for other, reason in lost.items():
                    assembly.endpoint.forget(other, reason)
                assembly.role().run()
                assembly.endpoint.close()
            except BaseException as error:  # noqa: BLE001 - how a worker ended is what tests look at
                records[name].error = error
                lost[name] = f"{name} failed: {error}"
                for other, each in assemblies.items():
                    if other != name:
                        each.endpoint.forget(name, lost[name])

    threads = []
    with baton.held():
        for name in records:
            queued = threading.Event()
            threads.append(threading.Thread(target=work, args=(name, queued), name=name, daemon=True))
            threads[-1].start()
            assert queued.wait(PATIENCE)
    for thread in threads:
        thread.join(PATIENCE)
    late = [thread.name for thread in threads if thread.is_alive()]
    for assembly in assemblies.values():
        assembly.endpoint.abort("the test is over")
    assert not late, f"still there: {late}"
    return records
