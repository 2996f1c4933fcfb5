"""`job.order=arrival`: updates are added as they come."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from roles.settings import Quorum, Settings
from roles.simulated import Simulated
from tests.roles import oracle
from tests.roles.federation import PATIENCE, Job, Layout, Record, coordinated, federate, three_tier, two_tier
from tests.roles.specimens import Points, classifier
from transports.faulty import BREAKS, Chance, FaultyHub

SIZES = (12, 9, 16, 7)
DATA = {f"trainer-{index}": Points(index, size) for index, size in enumerate(SIZES)}
SETTINGS = Settings(seed=5, rounds=3, eager=True, quorum=Quorum(join_timeout=PATIENCE, rejoin_timeout=PATIENCE))
LAYOUTS: Mapping[str, Callable[[], Layout]] = {
    "two_tier": lambda: two_tier(4),
    "three_tier": lambda: three_tier({"eu": 3, "na": 1}),
    "coordinated": lambda: coordinated(4, 2),
}
pytestmark = pytest.mark.usefixtures("folding")


def run(name: str, folder: Path, settings: Settings = SETTINGS, hub: FaultyHub | None = None) -> Mapping[str, Record]:
    data = [lambda own=own: own for own in DATA.values()]
    records = federate(LAYOUTS[name](), Job(build_module=classifier(), data=data, settings=settings, folder=folder), hub=hub)
    assert {name: record.error for name, record in records.items()} == dict.fromkeys(records)
    return records


@pytest.mark.parametrize("name", LAYOUTS)
def test_the_order_of_arrival_gives_federated_averaging_to_rounding(name: str, tmp_path: Path) -> None:
    run(name, tmp_path)
    expected = oracle.fedavg(classifier(), DATA, seed=5, rounds=3, epochs=1)[-1]
    assert oracle.largest_difference(torch.load(tmp_path / "last.pt", weights_only=True), expected) < 1e-6


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", LAYOUTS)
def test_so_it_is_while_connections_break(name: str, seed: int, tmp_path: Path) -> None:
    hub = FaultyHub(Chance(seed, rate=0.25, kinds=(*BREAKS, "delay", "duplicate", "corrupt_offer"), most=12))
    run(name, tmp_path, hub=hub)
    expected = oracle.fedavg(classifier(), DATA, seed=5, rounds=3, epochs=1)[-1]
    assert oracle.largest_difference(torch.load(tmp_path / "last.pt", weights_only=True), expected) < 1e-6


def test_a_virtual_clock_says_the_order_and_so_the_bits(tmp_path: Path) -> None:
    settings = replace(SETTINGS, simulated=Simulated(jitter=1.0))
    hub = FaultyHub(Chance(1, rate=0.4, kinds=("delay",)))
    run("two_tier", tmp_path / "calm", settings)
    run("two_tier", tmp_path / "slow", settings, hub)
    assert hub.happened
    models = [torch.load(tmp_path / which / "last.pt", weights_only=True) for which in ("calm", "slow")]
    assert oracle.same_bits(*models)
