from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader
from typing_extensions import override

from roles.algorithms.fedasync import FedAsync
from roles.algorithms.fedavg import FedAvg
from roles.algorithms.fedavgm import FedAvgM
from roles.algorithms.fedbuff import FedBuff
from roles.algorithms.feddyn import FedDyn
from roles.algorithms.fednova import FedNova
from roles.algorithms.fedopt import FedAdagrad, FedAdam, FedYogi
from roles.algorithms.fedprox import FedProx
from roles.algorithms.scaffold import Scaffold
from roles.strategy import Strategy
from tests.algorithms import reference
from tests.algorithms.jobs import SETTINGS, Normed, build, smooth, train, uniform
from tests.roles.federation import three_tier, two_tier
from tests.roles.oracle import largest_difference, same_bits
from tests.roles.specimens import Points, points

ALONE: dict[str, Callable[[], Strategy]] = {
    "fedavg": FedAvg,
    "fedavgm": lambda: FedAvgM(beta=0.0),
    "fedprox": lambda: FedProx(mu=0.0),
    "scaffold": Scaffold,
    "scaffold-I": lambda: Scaffold(option="I"),
    "fednova": FedNova,
    "fedbuff": lambda: FedBuff(k=1),
    "fedasync": lambda: FedAsync(alpha=1.0, rho=0.0),
}
"""Those that do nothing to a single trainer, whose model is the global one."""

ALL: dict[str, Callable[[], Strategy]] = {
    **ALONE,
    "fedavgm": FedAvgM,
    "fedadagrad": FedAdagrad,
    "fedadam": FedAdam,
    "fedyogi": FedYogi,
    "fedprox": lambda: FedProx(mu=0.5),
    "feddyn": lambda: FedDyn(alpha=0.1),
    "fedbuff": lambda: FedBuff(k=3),
}
EQUAL = [name for name in ALL if name != "fedasync"]
"""Those whose rounds are of all trainers."""


class Steady(Points):
    """Points in the order that they have, so that trainers with the same points train alike."""

    @override
    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(points(self.seed, self.samples), batch_size=self.batch_size)


@pytest.mark.parametrize("name", ALONE)
def test_one_client_is_plain_training(name: str, tmp_path: Path) -> None:
    data = {"trainer-0": Points(0, 22)}
    found = train(build(), ALONE[name], tmp_path, data=data)
    plan = reference.Plan(build=build(), data=data)
    module, state = plan.start()
    for round in range(1, SETTINGS.rounds + 1):
        state, _ = reference.train(plan, module, state, worker="trainer-0", round=round)
    assert largest_difference(found, state) < 1e-6


@pytest.mark.parametrize("name", EQUAL)
def test_equal_clients_give_what_one_of_them_gives(name: str, tmp_path: Path) -> None:
    results = []
    for count in (1, 3):
        data = {f"trainer-{index}": Steady(0, 15) for index in range(count)}
        strategy = partial(FedBuff, k=count) if name == "fedbuff" else ALL[name]
        results.append(train(build(Normed), strategy, tmp_path / str(count), data=data))
    assert largest_difference(*results) < 1e-9


@pytest.mark.parametrize(
    ("strategy", "same"),
    [
        (lambda: FedProx(mu=0.0), SETTINGS),
        (lambda: FedDyn(alpha=0.0), uniform()),
        (Scaffold, replace(uniform(), rounds=1)),
    ],
    ids=["fedprox", "feddyn", "scaffold-first-round"],
)
@pytest.mark.parametrize("layout", [two_tier(3), three_tier({"eu": 2, "na": 1})], ids=["flat", "hierarchy"])
def test_without_its_term_an_algorithm_is_federated_averaging_to_the_bit(
    strategy: Callable[[], Strategy], same: Any, layout: Any, tmp_path: Path
) -> None:
    found = train(build(), strategy, tmp_path / "one", settings=same, layout=layout)
    assert same_bits(found, train(build(), FedAvg, tmp_path / "other", settings=same, layout=layout))


def test_fednova_with_equal_steps_is_federated_averaging(tmp_path: Path) -> None:
    # 12, 14 and 11 samples in batches of 5 are 3 steps each.
    data = {f"trainer-{index}": Points(index, size) for index, size in enumerate((12, 14, 11))}
    found = train(build(momentum=0.5), FedNova, tmp_path / "one", data=data)
    assert largest_difference(found, train(build(momentum=0.5), FedAvg, tmp_path / "other", data=data)) < 1e-6


@pytest.mark.parametrize("net", [smooth, Normed])
def test_fedbuff_with_a_buffer_of_all_is_federated_averaging(net: Callable[[], Any], tmp_path: Path) -> None:
    found = train(build(net), lambda: FedBuff(k=3), tmp_path / "one")
    expected = train(build(net), FedAvg, tmp_path / "other", settings=uniform())
    assert largest_difference(found, expected) < 1e-6


@pytest.mark.parametrize("name", ALL)
def test_batch_statistics_and_counters_survive_every_algorithm(name: str, tmp_path: Path) -> None:
    found = train(build(Normed), ALL[name], tmp_path)
    assert all(bool(torch.isfinite(value).all()) for value in found.values() if value.is_floating_point())
    assert float(found["net.body.1.running_var"].min()) > 0
    assert float(found["net.body.1.running_mean"].abs().max()) > 0.01
    # 5 batches a round are the most that a trainer sees; asynchronous rounds are of one update or of all.
    most = 4 * 5
    assert found["net.batches"].dtype == torch.int32
    assert found["net.batches"][0] == found["net.body.1.num_batches_tracked"] <= most
    assert name == "fedasync" or int(found["net.batches"][0]) == most
