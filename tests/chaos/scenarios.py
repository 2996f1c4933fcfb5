"""What may happen to a job: one fault of one worker, or of the runner, at one place, under one policy."""

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import cycle

from tests.chaos.shapes import DATASETS, ROUNDS, Shape, shape
from tests.chaos_points import POINTS

POLICIES = ("fail", "continue", "restart")
OF_WORKERS = ("SIGKILL", "raise:RuntimeError", "exit:0", "raise:MemoryError", "SIGSTOP", "exit:3", "unpicklable")
OF_RUNNER = ("runner:SIGKILL", "everybody", "runner:SIGTERM", "runner:SIGSTOP")
IN_ROUND = ("receiving", "training", "uploading", "distributing", "aggregating", "assigning", "telling", "between")
MOMENT = "record"
"""The place of a fault from outside: when as many lines as `number` says stand in `tasks.jsonl`."""
MOMENTS = ("SIGKILL", "SIGSTOP", "SIGSEGV")
RANDOM = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """One fault. Its text says all of it: `TOPOLOGY/WORKER/POINT/NUMBER/FAULT/POLICY`."""

    topology: str
    worker: str
    """Who suffers; of a fault of the runner, who stands where when it happens."""
    point: str
    number: int | None
    """The round, or, of a moment, the number of records; None: whenever the point is passed first."""
    fault: str
    policy: str

    def __str__(self) -> str:
        number = "-" if self.number is None else self.number
        return f"{self.topology}/{self.worker}/{self.point}/{number}/{self.fault}/{self.policy}"

    @classmethod
    def parse(cls, text: str) -> "Scenario":
        """The scenario of a text."""
        topology, worker, point, number, fault, policy = text.split("/")
        wanted = None if number == "-" else int(number)
        return cls(topology=topology, worker=worker, point=point, number=wanted, fault=fault, policy=policy)

    @property
    def of_runner(self) -> bool:
        """Whether the runner suffers, and not a worker."""
        return self.fault in OF_RUNNER

    @property
    def freezes(self) -> bool:
        """Whether the victim stays without doing anything."""
        return self.fault.endswith("SIGSTOP")


def systematic(*, every_fault: bool = False) -> Iterator[Scenario]:
    """Each kind of worker at each of its points under each policy in each topology.

    Faults take turns, so that each meets each kind of worker, point and policy in some topology; with `every_fault` all of
    them are played everywhere. Of the runner: each of its faults at each point.
    """
    faults, runners = cycle(OF_WORKERS), cycle(OF_RUNNER)
    for topology in DATASETS:
        here = shape(topology)
        for worker in _one_of_each_role(here):
            for point in POINTS[here.kinds[worker]]:
                number = 2 if point in IN_ROUND else None
                where = Scenario(topology=topology, worker=worker, point=point, number=number, fault="", policy="fail")
                for policy in POLICIES:
                    chosen = list(OF_WORKERS) if every_fault else [next(faults)]
                    yield from (replace(where, fault=fault, policy=policy) for fault in chosen)
                chosen = list(OF_RUNNER) if every_fault else [next(runners)]
                yield from (replace(where, fault=fault) for fault in chosen)


def at_random(seed: int, number: int) -> Scenario:
    """The random scenario of that number, always the same one: half of them at a fault point, half at a moment from outside."""
    draw = random.Random(f"chaos {seed} {number}")
    topology = draw.choice(sorted(DATASETS))
    here = shape(topology)
    worker = draw.choice(here.of_kind(draw.choice(sorted(set(here.kinds.values())))))
    policy = draw.choice(POLICIES)
    if draw.random() < 0.5:
        records = draw.randint(1, len(here.kinds) * (ROUNDS + 3))
        return Scenario(topology=topology, worker=worker, point=MOMENT, number=records, fault=draw.choice(MOMENTS), policy=policy)
    point = draw.choice(POINTS[here.kinds[worker]])
    fault = draw.choice([*OF_WORKERS, *OF_WORKERS, *OF_RUNNER])
    last = ROUNDS - 1 if point == "between" else ROUNDS
    number_of = draw.randint(1, last) if point in IN_ROUND else None
    return Scenario(topology=topology, worker=worker, point=point, number=number_of, fault=fault, policy=policy)


def _one_of_each_role(here: Shape) -> list[str]:
    """The last worker of each role: not the one that is the first everywhere."""
    return list({here.roles[worker]: worker for worker in here.kinds}.values())
