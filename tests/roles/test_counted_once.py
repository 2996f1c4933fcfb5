"""Coordinated asynchronous learning: no client counts twice in one step of the root, and nobody waits for ever because of that."""

import itertools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from roles.aggregator import Aggregator
from roles.algorithms.fedbuff import FedBuff
from roles.part import Gathered, State
from roles.role import Role
from roles.rounds.average import WeightedSum
from roles.rounds.task import Task as Round
from roles.settings import Quorum
from roles.trainer import Task, Trainer
from tests.roles.coordination import SETTINGS, SIZES, errors, job
from tests.roles.federation import PATIENCE, Job, Killed, coordinated, federate
from transports.base import Channel
from transports.faulty import BREAKS, Chance, FaultyHub
from transports.message import Message

CLIENTS = tuple(f"trainer-{index}" for index in range(len(SIZES)))


class Naming(Trainer):
    """Says in its update whose it is."""

    def train(self, task: Task) -> Message:
        update = super().train(task)
        return update.relabel(scalars={**update.scalars, **{client: float(client == self.context.name) for client in CLIENTS}})


def tallied(steps: list[dict[str, int]], **options: Any) -> Job:
    """A job that writes down, for each step of the root, how many updates of each client are in it."""

    class Tallied(FedBuff):
        sums = CLIENTS

        def step(self, current: State, gathered: Gathered, round: int) -> State:
            steps.append({client: int(gathered.sums[client]) for client in CLIENTS if gathered.sums[client]})
            assert sum(steps[-1].values()) == gathered.count
            return super().step(current, gathered, round)

    return replace(job(), strategy=lambda: Tallied(**{"middle_k": 2, **options}))


def most(steps: list[dict[str, int]]) -> int:
    """How often the client counts that counts most often in a step."""
    return max(count for step in steps for count in step.values())


LAYOUTS = [(trainers, middles, middles) for trainers in (1, 2, 3, 4) for middles in (2, 3)]


@pytest.mark.parametrize("concurrency", [None, 1])
@pytest.mark.parametrize(("trainers", "middles", "k"), [*LAYOUTS, (3, 2, 1), (3, 3, 2), (6, 2, 2)])
def test_each_client_counts_at_most_once_in_a_step(trainers: int, middles: int, k: int, concurrency: int | None) -> None:
    steps: list[dict[str, int]] = []
    records = federate(coordinated(trainers, middles, trainer=Naming), tallied(steps, k=k, concurrency=concurrency))
    assert errors(records) == {}
    assert len(steps) == SETTINGS.rounds
    assert most(steps) == 1


def test_one_client_may_count_several_times_where_that_is_allowed() -> None:
    steps: list[dict[str, int]] = []
    records = federate(coordinated(1, 2, trainer=Naming), tallied(steps, k=2, repeat=True))
    assert errors(records) == {}
    # Two buffers of two updates each, all of the only client there is.
    assert steps == [{"trainer-0": 4}] * SETTINGS.rounds


def unlucky(at: int, *, after: bool) -> tuple[type[Role], list[str]]:
    """Aggregators of which the one dies that hands up the sum number `at` of all, before that or after it; and who died."""
    died: list[str] = []
    handed: Iterator[int] = itertools.count(1)

    class Unlucky(Aggregator):
        def upload(self, channel: Channel, task: Round, total: WeightedSum) -> None:
            number = next(handed)
            if after:
                super().upload(channel, task, total)
            if number == at:
                died.append(self.context.name)
                raise Killed("out of luck")
            if not after:
                super().upload(channel, task, total)

    return Unlucky, died


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("at", [1, 2, 3])
@pytest.mark.parametrize(("trainers", "middles"), [(1, 2), (2, 2), (3, 2), (1, 3), (3, 3)])
@pytest.mark.parametrize("restart", [False, True])
def test_an_aggregator_that_dies_keeps_no_client_from_the_others(
    trainers: int, middles: int, at: int, *, after: bool, restart: bool, tmp_path: Path
) -> None:
    steps: list[dict[str, int]] = []
    code, died = unlucky(at, after=after)
    quorum = Quorum(join_timeout=PATIENCE, survivors=not restart, rejoin_timeout=PATIENCE)
    made = replace(tallied(steps, k=middles), settings=replace(SETTINGS, quorum=quorum), states=tmp_path)
    made = replace(made, code_of={f"middle-{index}": code for index in range(middles)})
    records = federate(coordinated(trainers, middles, trainer=Naming), made, restart=restart)
    assert len(died) == 1
    assert set(errors(records)) == (set() if restart else set(died))
    assert len(steps) == SETTINGS.rounds
    assert most(steps) == 1
    if not restart:
        # All work for those who are left.
        assert set().union(*steps) == set(CLIENTS[:trainers])


@pytest.mark.parametrize("seed", range(12))
def test_connections_that_break_and_come_back_do_not_stop_a_job_with_few_trainers(seed: int) -> None:
    steps: list[dict[str, int]] = []
    quorum = Quorum(join_timeout=PATIENCE, rejoin_timeout=PATIENCE)
    hub = FaultyHub(Chance(seed, rate=0.2, kinds=(*BREAKS, "delay", "duplicate"), most=12))
    made = replace(tallied(steps, k=2), settings=replace(SETTINGS, quorum=quorum))
    records = federate(coordinated(1 + seed % 3, 2, trainer=Naming), made, hub=hub)
    assert errors(records) == {}
    assert hub.happened
    assert len(steps) == SETTINGS.rounds
    assert most(steps) == 1


@pytest.mark.parametrize("seed", range(3))
def test_a_model_that_comes_twice_is_worked_on_once(seed: int) -> None:
    seen: list[tuple[str, str | None]] = []

    class Noting(Naming):
        def train(self, task: Task) -> Message:
            seen.append((self.context.name, task.ticket))
            return super().train(task)

    class Middle(Aggregator):
        def distribute(self, channel: Channel, task: Round) -> None:
            seen.append((self.context.name, task.ticket))
            super().distribute(channel, task)

    steps: list[dict[str, int]] = []
    hub = FaultyHub(Chance(seed, rate=0.5, kinds=("duplicate",)))
    made = replace(tallied(steps, k=2), code_of={f"middle-{index}": Middle for index in range(2)})
    assert errors(federate(coordinated(6, 2, trainer=Noting), made, hub=hub)) == {}
    assert hub.happened
    assert len(set(seen)) == len(seen)
