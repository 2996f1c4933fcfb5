from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch

from roles.aggregator import Aggregator
from roles.coordinator import Coordinator
from roles.role import Role
from roles.settings import Quorum, Settings
from roles.state import model_sha256
from roles.trainer import Trainer
from tests.roles.fatal import dying
from tests.roles.federation import PATIENCE, Federation, Job, Layout, Record, coordinated, federate, three_tier, two_tier
from tests.roles.specimens import Points, classifier
from transports.errors import PeerLost
from transports.faulty import BREAKS, Chance, FaultyHub

SIZES = (12, 9, 16, 7)
SETTINGS = Settings(seed=5, rounds=3, quorum=Quorum(join_timeout=PATIENCE, rejoin_timeout=PATIENCE))
LAYOUTS: Mapping[str, Callable[[], Layout]] = {
    "two_tier": lambda: two_tier(4),
    "three_tier": lambda: three_tier({"eu": 3, "na": 1}),
    "coordinated": lambda: coordinated(4, 2),
}
TRAINER, MIDDLE = ("fetch", "train", "upload"), ("fetch", "distribute", "aggregate", "upload")
POINTS: list[tuple[str, str, type[Role], str]] = [
    *[("two_tier", "trainer-1", Trainer, stage) for stage in ("prepare", "join", *TRAINER)],
    *[("two_tier", "aggregator-0", Aggregator, stage) for stage in ("join", "distribute", "aggregate", "farewell")],
    *[("three_tier", "trainer-3", Trainer, stage) for stage in TRAINER],
    *[("three_tier", "middle-0", Aggregator, stage) for stage in ("join", *MIDDLE)],
    *[("three_tier", "top-0", Aggregator, stage) for stage in ("distribute", "aggregate")],
    *[("coordinated", "trainer-2", Trainer, stage) for stage in ("coordinate", *TRAINER)],
    *[("coordinated", "middle-0", Aggregator, stage) for stage in ("coordinate", *MIDDLE)],
    *[("coordinated", "top-0", Aggregator, stage) for stage in ("coordinate", "distribute", "aggregate")],
    *[("coordinated", "coordinator-0", Coordinator, stage) for stage in ("join", "coordinate_round", "tell_middles", "tell_top")],
]
ONCE = ("prepare", "join", "farewell")


def run(name: str, folder: Path, code_of: Mapping[str, type[Role]], hub: FaultyHub | None = None) -> dict[str, Record]:
    data = [lambda index=index: Points(index, SIZES[index]) for index in range(len(SIZES))]
    job = Job(build_module=classifier(momentum=0.9), data=data, settings=SETTINGS, folder=folder, code_of=code_of)
    records = federate(LAYOUTS[name](), job, hub=hub, restart=True)
    assert {name: record.error for name, record in records.items()} == dict.fromkeys(records)
    return records


def bits(folder: Path) -> str:
    return model_sha256(torch.load(folder / "last.pt", weights_only=True))


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, str]:
    """Layout -> hash of the model of an undisturbed job."""
    hashes = {}
    for name in LAYOUTS:
        folder = tmp_path_factory.mktemp(name)
        run(name, folder, {})
        hashes[name] = bits(folder)
    return hashes


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("point", POINTS, ids=[f"{point[1]}-{point[3]}" for point in POINTS])
def test_a_worker_that_is_started_anew_changes_no_bit_of_the_model(
    point: tuple[str, str, type[Role], str], after: bool, tmp_path: Path, calm: Mapping[str, str]
) -> None:
    layout, worker, base, stage = point
    fatal = dying(base, stage, call=1 if stage in ONCE else 2, after=after)
    records = run(layout, tmp_path, {worker: fatal})
    assert len(records[worker].deaths) == 1
    assert bits(tmp_path) == calm[layout]


@pytest.mark.parametrize("name", LAYOUTS)
def test_everybody_may_die_once_and_again_while_connections_break(name: str, tmp_path: Path, calm: Mapping[str, str]) -> None:
    layout = LAYOUTS[name]()
    stages = {Trainer: "train", Aggregator: "aggregate", Coordinator: "coordinate_round"}
    code = {worker.name: dying(base, stages[base], call=2) for worker in layout.workers for base in [layout.code[worker.role]]}
    hub = FaultyHub(Chance(7, rate=0.1, kinds=BREAKS, most=12))
    records = run(name, tmp_path, code, hub)
    assert all(len(record.deaths) == 1 for record in records.values())
    assert hub.happened
    assert bits(tmp_path) == calm[name]


def test_a_parent_that_does_not_come_back_in_time_is_named() -> None:
    data = [lambda: Points(0, 8)]
    settings = Settings(rounds=2, quorum=Quorum(join_timeout=PATIENCE, rejoin_timeout=0.05))
    code = {"aggregator-0": dying(Aggregator, "distribute", call=2)}
    records = Federation(two_tier(1), Job(build_module=classifier(), data=data, settings=settings, code_of=code), tell=False).run()
    error = records["trainer-0"].error
    assert isinstance(error, PeerLost)
    assert str(error) == "aggregator-0: aggregator-0 failed: killed in distribute; not back within 0.05 s"
