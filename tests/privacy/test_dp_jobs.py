"""Whole private jobs inside the process: against a plain loop, through levels, after a restart."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from roles import seeds
from roles.algorithms.fedasync import FedAsync
from roles.algorithms.fedavgm import FedAvgM
from roles.algorithms.fedbuff import FedBuff
from roles.algorithms.feddyn import FedDyn
from roles.algorithms.fednova import FedNova
from roles.algorithms.fedopt import FedAdam
from roles.algorithms.fedprox import FedProx
from roles.algorithms.scaffold import Scaffold
from roles.privacy.accountant import Accountant
from roles.privacy.dp import DifferentialPrivacy
from roles.samplers.fedbalancer import FedBalancer
from roles.selectors.choice import PowerOfChoice
from roles.selectors.oort import Oort
from roles.settings import Settings, Share
from tests.privacy.parts import flat
from tests.roles.federation import Job, Layout, Record, federate, three_tier, two_tier
from tests.roles.oracle import train_locally
from tests.roles.specimens import CLASSES, FEATURES, Classifier, Points, classifier

ROUNDS, SEED = 3, 5
SIZES = (20, 11, 14, 8)
DELTA = 1e-3


def smooth() -> nn.Sequential:
    """Smooth, so that a difference in the last bit stays one."""
    return nn.Sequential(nn.Linear(FEATURES, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, CLASSES))


BUILD = classifier(smooth)
DATA = [lambda index=index, size=size: Points(index, size, batch_size=4) for index, size in enumerate(SIZES)]


def trained(layout: Layout, *, folder: Path, **keys: Any) -> tuple[dict[str, Any], Record]:
    """The last global model and what the root reported."""
    settings = Settings(seed=SEED, rounds=ROUNDS, epochs=2, evaluate_every=0, share=keys.pop("share", Share()))
    strategy = {"strategy": keys.pop("strategy")} if "strategy" in keys else {}
    own = dict(keys)
    job = Job(
        build_module=BUILD,
        data=DATA,
        settings=settings,
        folder=folder,
        privacy=lambda: DifferentialPrivacy(delta=DELTA, **own),
        **strategy,
    )
    records = federate(layout, job)
    assert not [record.error for record in records.values() if record.error is not None]
    root = records[layout.workers[0].name]
    return torch.load(root.results[-1]["model"], weights_only=True), root


def by_hand(clip: float) -> dict[str, torch.Tensor]:
    """The same job as a plain loop with clipped differences, in float64 NumPy between the fits."""
    seeds.apply(seeds.derive(SEED, "model"))
    module = Classifier(smooth())
    state = {name: value.clone() for name, value in module.state_dict().items()}
    floating = [name for name, value in state.items() if value.is_floating_point()]
    for round in range(1, ROUNDS + 1):
        moves = []
        for index in range(len(SIZES)):
            module.load_state_dict(state)
            train_locally(module, DATA[index](), seed=SEED, worker=f"trainer-{index}", round=round, epochs=2)
            trained = module.state_dict()
            move = {name: trained[name].double().numpy() - state[name].double().numpy() for name in floating}
            norm = math.sqrt(sum(float(np.square(value).sum()) for value in move.values()))
            moves.append({name: value * min(1.0, clip / norm) for name, value in move.items()})
        for name in floating:
            mean = np.mean([move[name] for move in moves], axis=0)
            state[name] = (state[name].double() + torch.from_numpy(np.asarray(mean))).float()
    return {name: state[name] for name in floating}


@pytest.mark.parametrize("clip", [0.05, 1.0])
@pytest.mark.parametrize("layout", [two_tier(4), three_tier({"eu": 3, "us": 1})], ids=["two_tier", "three_tier"])
def test_a_clipped_job_is_a_plain_loop_with_clipped_differences(clip: float, layout: Layout, tmp_path: Path) -> None:
    found, root = trained(layout, folder=tmp_path, clip=clip, noise_multiplier=0.0)
    for name, value in by_hand(clip).items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=1e-6)
    assert root.metrics_of("dp_clip") == dict.fromkeys((1, 2, 3), clip)


def test_without_a_clip_it_is_federated_averaging_of_equal_clients_to_the_bit(tmp_path: Path) -> None:
    found, _ = trained(two_tier(4), folder=tmp_path / "dp", clip=math.inf, noise_multiplier=0.0)
    settings = Settings(seed=SEED, rounds=ROUNDS, epochs=2, evaluate_every=0, share=Share(weighted_by="uniform"))
    root = federate(two_tier(4), Job(build_module=BUILD, data=DATA, settings=settings, folder=tmp_path / "plain"))["aggregator-0"]
    same = torch.load(root.results[-1]["model"], weights_only=True)
    assert all(torch.equal(found[name], value) for name, value in same.items())


@pytest.mark.parametrize("side", ["server", "client"])
def test_noise_moves_a_job_by_what_it_should_and_epsilon_grows(side: Any, tmp_path: Path) -> None:
    keys = {"clip": 0.5, "side": side, "reproducible": True}
    quiet, _ = trained(two_tier(4), folder=tmp_path / "quiet", noise_multiplier=1e-3, **keys)
    found, root = trained(two_tier(4), folder=tmp_path / "first", noise_multiplier=0.8, **keys)
    again, _ = trained(three_tier({"eu": 3, "us": 1}), folder=tmp_path / "again", noise_multiplier=0.8, **keys)
    parameters = [name for name, value in found.items() if value.is_floating_point() and "running" not in name]
    moved = np.concatenate([(found[name] - quiet[name]).numpy().reshape(-1) for name in parameters])
    # Three rounds of noise, and what training makes of it.
    assert 0.5 < np.std(moved) / (0.8 * 0.5 / 4 * math.sqrt(ROUNDS)) < 2
    np.testing.assert_allclose(flat(found), flat(again), atol=1e-6)
    epsilons = root.metrics_of("dp_epsilon")
    reference = Accountant("none", asked=4, population=4)
    for round in range(1, ROUNDS + 1):
        reference.spend(0.8)
        assert epsilons[round] == pytest.approx(reference.epsilon(DELTA), rel=1e-9)
    assert root.metrics_of("dp_delta") == dict.fromkeys(epsilons, DELTA)


def test_noise_from_the_system_differs_from_run_to_run(tmp_path: Path) -> None:
    first, second = (trained(two_tier(4), folder=tmp_path / name, clip=0.5)[0] for name in ("a", "b"))
    assert not any(torch.equal(value, second[name]) for name, value in first.items() if value.is_floating_point())
    assert torch.equal(first["net.1.num_batches_tracked"], second["net.1.num_batches_tracked"])


def test_the_clip_adapts_at_the_root_and_reaches_every_client(tmp_path: Path) -> None:
    keys = {"clip": 100.0, "adaptive": True, "noise_multiplier": 0.0, "clip_learning_rate": 1.0}
    for layout in (two_tier(4), three_tier({"eu": 3, "us": 1})):
        _, root = trained(layout, folder=tmp_path / layout.workers[0].name, **keys)
        clips = root.metrics_of("dp_clip")
        # All are within 100: b = 1, so the clip falls by exp(-(1 - 0.5)).
        assert clips == {1: 100.0, 2: pytest.approx(100 * math.exp(-0.5)), 3: pytest.approx(100 * math.exp(-1.0))}
        assert root.metrics_of("dp_within") == dict.fromkeys(clips, 1.0)


def test_it_goes_with_a_server_optimizer(tmp_path: Path) -> None:
    found, root = trained(two_tier(4), folder=tmp_path, clip=0.5, strategy=FedAdam)
    assert sorted(root.metrics_of("dp_epsilon")) == [1, 2, 3]
    assert all(bool(torch.isfinite(value).all()) for value in found.values())
    assert float(found["net.1.running_var"].min()) >= 0


def test_a_resumed_job_is_the_same_job_where_noise_can_repeat(tmp_path: Path) -> None:
    def job(rounds: int, folder: Path, **changes: Any) -> Job:
        settings = Settings(seed=SEED, rounds=rounds, epochs=1, evaluate_every=0)
        private: dict[str, Any] = {"adaptive": True, "count_noise": 2.0, "delta": DELTA, "reproducible": True}
        return Job(
            build_module=BUILD,
            data=DATA,
            settings=settings,
            folder=folder / "root",
            states=folder / "states",
            privacy=lambda: DifferentialPrivacy(**private),
            **changes,
        )

    whole = federate(two_tier(4), job(4, tmp_path / "whole"))["aggregator-0"]
    federate(two_tier(4), job(2, tmp_path / "parts"))
    resumed = federate(two_tier(4), job(4, tmp_path / "parts", resume=True))["aggregator-0"]
    assert resumed.results[-1]["model_sha256"] == whole.results[-1]["model_sha256"]
    for name in ("dp_epsilon", "dp_clip"):
        assert resumed.metrics_of(name)[4] == whole.metrics_of(name)[4]


@pytest.mark.parametrize(
    "strategy",
    [FedAvgM, FedProx, Scaffold, FedDyn, lambda: FedBuff(k=2), FedAsync],
    ids=["fedavgm", "fedprox", "scaffold", "feddyn", "fedbuff", "fedasync"],
)
def test_it_goes_with_every_algorithm_that_exchanges_tensors_only(strategy: Any, tmp_path: Path) -> None:
    found, root = trained(two_tier(4), folder=tmp_path, clip=0.5, strategy=strategy)
    assert sorted(root.metrics_of("dp_epsilon")) == [1, 2, 3]
    assert all(bool(torch.isfinite(value).all()) for value in found.values() if value.is_floating_point())


def test_an_algorithm_that_reports_numbers_of_its_own_is_refused(tmp_path: Path) -> None:
    settings = Settings(seed=SEED, rounds=1, evaluate_every=0)
    records = federate(
        two_tier(4), Job(build_module=BUILD, data=DATA, settings=settings, strategy=FedNova, privacy=DifferentialPrivacy)
    )
    assert "updates hold more than it can protect" in str(records["trainer-0"].error)


@pytest.mark.parametrize(
    "part",
    [
        {"selector": lambda: Oort(k=2, overcommitment=1.0)},
        {"selector": lambda: PowerOfChoice(m=2, d=3)},
        {"sampler": FedBalancer},
    ],
    ids=["oort", "power_of_choice", "fedbalancer"],
)
def test_without_noise_it_clips_beside_parts_that_report_numbers(part: Any, tmp_path: Path) -> None:
    settings = Settings(seed=SEED, rounds=ROUNDS, evaluate_every=0)
    keys: dict[str, Any] = {"clip": 0.01, "noise_multiplier": 0.0}
    job = Job(
        build_module=BUILD, data=DATA, settings=settings, folder=tmp_path, privacy=lambda: DifferentialPrivacy(**keys), **part
    )
    records = federate(two_tier(4), job)
    assert not [record.error for record in records.values() if record.error is not None]
    root = records["aggregator-0"]
    assert root.metrics_of("dp_clip") == dict.fromkeys((1, 2, 3), 0.01)
    assert root.metrics_of("dp_epsilon") == {}, "nothing is promised"
    seeds.apply(seeds.derive(SEED, "model"))
    start, found = Classifier(smooth()).state_dict(), torch.load(root.results[-1]["model"], weights_only=True)
    floating = [name for name, value in start.items() if value.is_floating_point()]
    moved = math.sqrt(sum(float((found[name].double() - start[name].double()).square().sum()) for name in floating))
    # Three means of vectors that were clipped to 0.01; unclipped they move it by more than 0.1.
    assert 0 < moved <= ROUNDS * 0.01 + 1e-5
