"""Asynchronous private jobs: one client is in a sum once and counts 1 at most, so that the clip bounds what it can do there."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import pytest
from typing_extensions import override

from roles.algorithms.fedasync import FedAsync
from roles.algorithms.fedbuff import FedBuff
from roles.part import Client, Gathered, Local, Update
from roles.privacy.dp import DifferentialPrivacy
from roles.selectors.selector import All
from roles.settings import Settings
from roles.strategy import Strategy
from tests.roles.federation import Job, Layout, federate, three_tier, two_tier
from tests.roles.specimens import Points, classifier

TRAINERS = tuple(f"trainer-{index}" for index in range(5))
LAYOUTS: Mapping[str, Layout] = {"two_tier": two_tier(5), "three_tier": three_tier({"eu": 2, "us": 3})}
STRATEGIES: Mapping[str, Any] = {
    "fedbuff": lambda: FedBuff(k=2, middle_k=2),
    "fedbuff-small": lambda: FedBuff(k=2, middle_k=1, concurrency=1),
    "fedasync": FedAsync,
}


class Named(Client):
    """Says whose update it is."""

    @override
    def finish(self, local: Local, update: Update) -> None:
        update.scalars |= {name: float(name == local.worker) for name in TRAINERS}


class Listening(All):
    """Writes down how often each trainer is in a sum of the root, and what the sum counts."""

    sums: ClassVar[tuple[str, ...]] = TRAINERS

    def __init__(self) -> None:
        self.rounds: list[Gathered] = []

    @override
    def closed(self, gathered: Gathered, round: int) -> Gathered:
        self.rounds.append(gathered)
        return gathered

    @override
    def client(self) -> Client:
        return Named()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", STRATEGIES)
def test_a_client_is_in_a_sum_of_the_root_once_and_counts_one_at_most(name: str, layout: str, tmp_path: Path) -> None:
    if (name, layout) == ("fedasync", "three_tier"):
        pytest.skip("FedAsync needs every update by itself")
    listeners: list[Listening] = []

    def listening() -> Listening:
        listeners.append(Listening())
        return listeners[-1]

    job = Job(
        build_module=classifier(),
        data=[partial(Points, index, 6 + 4 * index) for index in range(5)],
        settings=Settings(seed=3, rounds=6, evaluate_every=0),
        folder=tmp_path,
        strategy=STRATEGIES[name],
        selector=listening,
        privacy=lambda: DifferentialPrivacy(noise_multiplier=0.0),
    )
    records = federate(LAYOUTS[layout], job)
    assert not [record.error for record in records.values() if record.error is not None]
    (rounds,) = [listener.rounds for listener in listeners if listener.rounds]
    assert len(rounds) == 6
    for gathered in rounds:
        assert {gathered.sums[trainer] for trainer in TRAINERS} <= {0.0, 1.0}
        assert sum(gathered.sums[trainer] for trainer in TRAINERS) == gathered.count
        assert gathered.weight <= gathered.count * (1 + 1e-9)


@pytest.mark.parametrize(
    "strategy",
    [FedBuff(), FedBuff(a=0.0), FedBuff(a=3.0), *(FedAsync(staleness=each) for each in ("constant", "polynomial", "hinge"))],
)
def test_no_age_makes_an_update_count_more_than_one(strategy: Strategy) -> None:
    assert all(0 < strategy.staleness_weight(age) <= 1 for age in range(1000))
