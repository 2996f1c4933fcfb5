from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from roles.errors import RoundFailed
from roles.settings import Quorum, Settings
from roles.state import model_sha256
from tests.roles.federation import PATIENCE, Job, Layout, Record, coordinated, federate, three_tier, two_tier
from tests.roles.specimens import Points, classifier
from transports.faulty import BREAKS, Chance, FaultyHub

SIZES = (12, 9, 16, 7)
pytestmark = pytest.mark.usefixtures("folding")
SETTINGS = Settings(seed=5, rounds=3, quorum=Quorum(join_timeout=PATIENCE, rejoin_timeout=PATIENCE))
LAYOUTS: Mapping[str, Callable[[], Layout]] = {
    "two_tier": lambda: two_tier(4),
    "three_tier": lambda: three_tier({"eu": 3, "na": 1}),
    "coordinated": lambda: coordinated(4, 2),
}


def job(folder: Path, **more: object) -> Job:
    data = [lambda index=index: Points(index, SIZES[index]) for index in range(len(SIZES))]
    return replace(Job(build_module=classifier(lr=0.1, momentum=0.9), data=data, settings=SETTINGS, folder=folder), **more)  # type: ignore[arg-type]


def succeed(layout: Layout, job: Job, hub: FaultyHub | None = None) -> dict[str, Record]:
    records = federate(layout, job, hub=hub)
    assert {name: record.error for name, record in records.items()} == dict.fromkeys(records)
    return records


def bits(folder: Path) -> str:
    return model_sha256(torch.load(folder / "last.pt", weights_only=True))


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("name", LAYOUTS)
def test_connections_that_break_and_come_back_change_no_bit_of_the_model(name: str, seed: int, tmp_path: Path) -> None:
    succeed(LAYOUTS[name](), job(tmp_path / "calm"))
    hub = FaultyHub(Chance(seed, rate=0.25, kinds=(*BREAKS, "delay", "duplicate", "corrupt_offer"), most=12))
    records = succeed(LAYOUTS[name](), job(tmp_path / "rough"), hub)
    assert hub.happened
    assert bits(tmp_path / "rough") == bits(tmp_path / "calm")
    root = next(record for record in records.values() if record.results)
    assert root.metrics_of("samples") == dict.fromkeys((1, 2, 3), sum(SIZES))


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("name", LAYOUTS)
def test_a_corrupt_update_is_not_counted_and_without_it_the_job_ends(name: str, seed: int, tmp_path: Path) -> None:
    hub = FaultyHub(Chance(seed, rate=0.1, kinds=(*BREAKS, "corrupt", "corrupt_offer"), most=12))
    records = federate(LAYOUTS[name](), job(tmp_path), hub=hub)
    corrupt = any(fault.kind == "corrupt" for _, fault in hub.happened)
    errors = {name: record.error for name, record in records.items() if record.error is not None}
    assert corrupt or not errors
    # All ends are needed: either the root says whose update was corrupt, or no update was.
    assert not errors or any(isinstance(error, RoundFailed) and "corrupt" in str(error) for error in errors.values())
