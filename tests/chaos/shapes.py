"""The built-in topologies as chaos needs them: a tiny job for each, and who depends on whom in it."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from flame_run.topology.build import plan_or_problems
from flame_run.topology.plan import Plan
from roles.tags import AGGREGATE, COORDINATE_WITH, FETCH

CONF = Path(__file__).parents[2] / "conf"
DATASETS: Mapping[str, str] = {
    "two_tier": "smoke",
    "hierarchical": "default",
    "hierarchical_groups": "eu_na",
    "coordinated": "three",
    "four_tier": "regions",
    "parallel": "us_eu_asia",
    "realms": "realms",
    "realms_three_tier": "realms",
}
"""Topology (a file of `conf/schema`) -> the dataset spec of its job."""
ELSEWHERE: Mapping[str, str] = {
    "coordinated_three_level": "tests/e2e/test_coordinated_faults.py",
    "distributed": "tests/e2e/test_ring_faults.py",
    "hybrid": "tests/e2e/test_ring_faults.py",
    "two_consumers": "tests/roles/test_two_consumers.py",
}
"""Topology whose right endings are not told here -> the tests that kill its workers."""
ROUNDS = 3
BATCHES = 2
"""Training steps of a local epoch."""
CLASSES = {"trainer": "Trainer", "middle": "Aggregator", "root": "Aggregator", "coordinator": "Coordinator"}


def shipped() -> list[str]:
    """Every topology that is shipped."""
    return sorted(path.stem for path in (CONF / "schema").glob("*.yaml"))


def built_in() -> list[str]:
    """Those that are played here."""
    return [name for name in shipped() if name not in ELSEWHERE]


def uncovered() -> list[str]:
    """The shipped topologies that no job is known for."""
    return [name for name in built_in() if name not in DATASETS]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """Who is who in the job of one topology."""

    topology: str
    kinds: Mapping[str, str]
    """Worker -> `trainer`, `middle`, `root` or `coordinator`, in the order of the plan."""
    roles: Mapping[str, str]
    """Worker -> its role."""
    parents: Mapping[str, frozenset[str]]
    """Worker -> the aggregators that it may send its updates to."""
    cuts: Mapping[str, Mapping[str, Any]]
    """Trainer -> its part of the images, as `tests.e2e.oracle.subset` takes it."""

    @property
    def coordinated(self) -> bool:
        """Whether a coordinator gives trainers another parent where one is lost."""
        return "coordinator" in self.kinds.values()

    def of_kind(self, kind: str) -> list[str]:
        """The workers of one kind."""
        return [worker for worker, each in self.kinds.items() if each == kind]

    def stranded(self, lost: str) -> frozenset[str]:
        """Who has nobody to send updates to once `lost` is lost."""
        gone = {lost}
        for _ in self.kinds:
            gone |= {worker for worker, parents in self.parents.items() if parents and parents <= gone}
        return frozenset(gone - {lost})

    def trainers_below(self, worker: str) -> frozenset[str]:
        """The trainers whose updates may reach `worker`, and itself where it is one."""
        reached = {worker}
        for _ in self.kinds:
            reached |= {each for each, parents in self.parents.items() if parents & reached}
        return frozenset(each for each in reached if self.kinds[each] == "trainer")


@cache
def shape(topology: str) -> Shape:
    """The job of `topology`, expanded."""
    documents = (_load(f"schema/{topology}"), _load(f"dataset/{DATASETS[topology]}"), _load("job/default"))
    plan, problems = plan_or_problems(*documents)
    if plan is None:
        raise ValueError(f"{topology} with dataset={DATASETS[topology]}: {[str(problem) for problem in problems]}")
    return Shape(
        topology=topology,
        kinds={worker.name: _kind(plan, worker.role) for worker in plan.workers},
        roles={worker.name: worker.role for worker in plan.workers},
        parents={worker.name: _parents(plan, worker.name) for worker in plan.workers},
        cuts={each.name: dict(each.dataset.partition or {}) for each in plan.workers if each.dataset is not None},
    )


def overrides(topology: str) -> list[str]:
    """The command line of the tiny job of `topology`, its roles with fault points."""
    known = shape(topology)
    classes = {known.roles[worker]: CLASSES[kind] for worker, kind in known.kinds.items()}
    return [
        f"schema={topology}",
        f"dataset={DATASETS[topology]}",
        "model=mnist_mlp",
        "tracking=none",
        f"job.hyperparameters.rounds={ROUNDS}",
        f"+model.trainer.limit_train_batches={BATCHES}",
        "job.evaluate.every=0",
        f"python_path=[{Path(__file__).parents[1]}]",
        *(f"+job.code.{role}=chaos_roles.Chaos{name}" for role, name in classes.items()),
    ]


def _load(name: str) -> Any:
    return yaml.safe_load((CONF / f"{name}.yaml").read_text(encoding="utf-8"))


def _kind(plan: Plan, role: str) -> str:
    tags = {tag for channel in plan.channels for tag in channel.func_tags.get(role, ())}
    if any(tag.startswith(COORDINATE_WITH) for tag in tags):
        return "coordinator"
    if AGGREGATE not in tags:
        return "trainer"
    return "middle" if FETCH in tags else "root"


def _parents(plan: Plan, worker: str) -> frozenset[str]:
    here = plan.worker(worker)
    upward = [channel for channel in plan.channels if FETCH in channel.func_tags.get(here.role, ())]
    return frozenset(end for channel in upward for end in plan.ends(worker, channel.name))
