from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from roles.aggregator import Aggregator
from roles.algorithms.fedavgm import FedAvgM
from roles.algorithms.feddyn import FedDyn
from roles.algorithms.fedopt import FedAdam
from roles.algorithms.scaffold import Scaffold
from roles.catalogue import Traits
from roles.role import Role
from roles.selectors.selector import Selection, Selector
from roles.settings import Quorum
from roles.strategy import Strategy
from roles.trainer import Task, Trainer
from tests.algorithms.jobs import SETTINGS, build, job_of, model_in, run, train
from tests.roles.fatal import dying
from tests.roles.federation import PATIENCE, Killed, federate, two_tier
from tests.roles.oracle import same_bits
from transports.message import Message

STATEFUL: dict[str, Callable[[], Strategy]] = {
    "scaffold": Scaffold,
    "scaffold-I": lambda: Scaffold(option="I"),
    "feddyn": lambda: FedDyn(alpha=0.3),
    "fedadam": FedAdam,
    "fedavgm": FedAvgM,
}
POINTS: list[tuple[str, type[Role], str]] = [
    ("trainer-1", Trainer, "fetch"),
    ("trainer-1", Trainer, "train"),
    ("trainer-1", Trainer, "upload"),
    ("aggregator-0", Aggregator, "distribute"),
    ("aggregator-0", Aggregator, "aggregate"),
]


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("point", POINTS, ids=[f"{point[0]}-{point[2]}" for point in POINTS])
@pytest.mark.parametrize("name", ["scaffold", "feddyn", "fedadam"])
def test_whoever_is_started_anew_goes_on_with_what_it_kept(
    name: str, point: tuple[str, type[Role], str], after: bool, tmp_path: Path
) -> None:
    worker, base, stage = point
    calm = train(build(), STATEFUL[name], tmp_path / "calm")
    fatal = dying(base, stage, call=3, after=after)
    job = job_of(build(), STATEFUL[name], tmp_path / "fatal", states=tmp_path / "states", code_of={worker: fatal})
    records = federate(two_tier(3), job, restart=True)
    assert {each: record.error for each, record in records.items()} == dict.fromkeys(records)
    assert len(records[worker].deaths) == 1
    assert same_bits(model_in(tmp_path / "fatal"), calm)


@pytest.mark.parametrize("name", STATEFUL)
def test_a_job_that_is_resumed_ends_as_if_nothing_had_happened(name: str, tmp_path: Path) -> None:
    calm = train(build(), STATEFUL[name], tmp_path / "calm")
    more: dict[str, Any] = {"states": tmp_path / "states"}
    fatal = {"aggregator-0": dying(Aggregator, "aggregate", call=3)}
    records = run(build(), STATEFUL[name], tmp_path / "cut", code_of=fatal, **more)
    assert isinstance(records["aggregator-0"].error, Killed)
    found = train(build(), STATEFUL[name], tmp_path / "cut", resume=True, **more)
    assert same_bits(found, calm)


class Fails(Trainer):
    """Its update of round 2 is of no use."""

    def train(self, task: Task) -> Message:
        update = super().train(task)
        if task.round == 2:
            update.groups["weights"]["net.2.bias"][0] = float("nan")
        return update


class WithoutOne(Selector):
    """Does not ask trainer-1 in round 2."""

    traits = Traits(selects=True)

    def select(self, round: int, ends: Sequence[str]) -> Selection:
        return Selection(ends=tuple(end for end in ends if (round, end) != (2, "trainer-1")))


@pytest.mark.parametrize("name", ["scaffold", "scaffold-I", "feddyn"])
def test_a_refused_update_leaves_its_trainer_as_if_it_had_not_been_asked(name: str, tmp_path: Path) -> None:
    settings = replace(SETTINGS, quorum=Quorum(min_ends=2, join_timeout=PATIENCE))
    more: dict[str, Any] = {"settings": settings, "states": tmp_path / "states", "code_of": {"trainer-1": Fails}}
    records = run(build(), STATEFUL[name], tmp_path / "refused", **more)
    assert {each: record.error for each, record in records.items()} == dict.fromkeys(records)
    assert records["trainer-1"].metrics_of("refused_updates") == {2: 1.0}
    settings = replace(settings, quorum=SETTINGS.quorum)
    job = replace(job_of(build(), STATEFUL[name], tmp_path / "unasked", settings=settings), selector=WithoutOne)
    federate(two_tier(3), job)
    assert same_bits(model_in(tmp_path / "refused"), model_in(tmp_path / "unasked"))


@pytest.mark.parametrize("name", ["scaffold", "scaffold-I", "feddyn"])
def test_what_a_trainer_keeps_is_stored_under_its_round_without_running_code_to_read_it(name: str, tmp_path: Path) -> None:
    train(build(), STATEFUL[name], tmp_path, states=tmp_path / "states", settings=replace(SETTINGS, rounds=2))
    content = torch.load(tmp_path / "states" / "trainer-0" / "round-00002.pt", weights_only=True)
    (kept,) = [part for part in content["parts"].values() if part]
    (tensors,) = kept.values()
    assert tensors.keys() == {"net.0.weight", "net.0.bias", "net.2.weight", "net.2.bias"}
    assert {value.dtype for value in tensors.values()} == {torch.float32}
    assert any(float(value.abs().max()) > 1e-4 for value in tensors.values())
