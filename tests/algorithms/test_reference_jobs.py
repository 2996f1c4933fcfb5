from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from roles.algorithms.fedavgm import FedAvgM
from roles.algorithms.feddyn import FedDyn
from roles.algorithms.fednova import FedNova
from roles.algorithms.fedopt import FedAdagrad, FedAdam, FedYogi
from roles.algorithms.fedprox import FedProx
from roles.algorithms.scaffold import Scaffold
from roles.strategy import Strategy
from tests.algorithms import jobs, reference
from tests.algorithms.jobs import SETTINGS, Normed, build, plan_of, smooth, train
from tests.algorithms.reference import Plan, State
from tests.roles.federation import three_tier, two_tier
from tests.roles.oracle import largest_difference

CASES: dict[str, tuple[Callable[[], Strategy], Callable[[Plan], State]]] = {
    "fedprox": (lambda: FedProx(mu=0.7), lambda plan: reference.fedprox(plan, 0.7)),
    "scaffold": (Scaffold, reference.scaffold),
    "scaffold-rate": (lambda: Scaffold(eta_g=0.6), lambda plan: reference.scaffold(plan, eta_g=0.6)),
    "feddyn": (lambda: FedDyn(alpha=0.3), lambda plan: reference.feddyn(plan, 0.3)),
    "fednova": (FedNova, reference.fednova),
    "fednova-proximal": (lambda: FedNova(mu=0.7), lambda plan: reference.fednova(plan, 0.7)),
}
LAYOUTS = {"two_tier": two_tier(3), "three_tier": three_tier({"eu": 2, "na": 1})}


@pytest.mark.parametrize("net", [smooth, Normed])
@pytest.mark.parametrize("partial", [False, True], ids=["all", "partial"])
@pytest.mark.parametrize("name", CASES)
def test_a_job_equals_one_plain_pytorch_loop(name: str, partial: bool, net: Callable[[], nn.Module], tmp_path: Path) -> None:
    strategy, loop = CASES[name]
    found = train(build(net), strategy, tmp_path, partial=partial)
    assert largest_difference(found, loop(plan_of(build(net), partial=partial))) < 1e-6


@pytest.mark.parametrize("name", CASES)
def test_a_hierarchy_equals_the_same_loop(name: str, tmp_path: Path) -> None:
    strategy, loop = CASES[name]
    found = train(build(Normed), strategy, tmp_path, layout=LAYOUTS["three_tier"])
    assert largest_difference(found, loop(plan_of(build(Normed)))) < 1e-6


@pytest.mark.parametrize("name", CASES)
def test_steps_are_those_of_the_optimizer_where_gradients_are_accumulated(name: str, tmp_path: Path) -> None:
    strategy, loop = CASES[name]
    settings = replace(SETTINGS, epochs=2)
    found = train(build(), strategy, tmp_path, settings=settings, options=lambda: {"accumulate_grad_batches": 2})
    plan = plan_of(build(), accumulate=2, epochs=dict.fromkeys(jobs.DATA, 2))
    assert largest_difference(found, loop(plan)) < 1e-6


@pytest.mark.parametrize("name", ["fedprox", "scaffold", "feddyn"])
def test_a_schedule_of_the_learning_rate_is_followed(name: str, tmp_path: Path) -> None:
    strategy, loop = CASES[name]
    factory = build(gamma=0.5)
    found = train(factory, strategy, tmp_path, settings=replace(SETTINGS, epochs=3))
    assert largest_difference(found, loop(plan_of(factory, epochs=dict.fromkeys(jobs.DATA, 3)))) < 1e-6


@pytest.mark.parametrize("name", ["fedprox", "feddyn", "fednova"])
def test_momentum_of_the_trainers_is_allowed_for(name: str, tmp_path: Path) -> None:
    strategy, loop = CASES[name]
    factory = build(momentum=0.9, lr=0.02)
    assert largest_difference(train(factory, strategy, tmp_path), loop(plan_of(factory))) < 1e-6


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("partial", [False, True], ids=["all", "partial"])
def test_scaffold_may_take_the_whole_gradient_for_its_control_variates(momentum: float, partial: bool, tmp_path: Path) -> None:
    factory = build(momentum=momentum, lr=0.05)
    found = train(factory, lambda: Scaffold(option="I"), tmp_path, partial=partial)
    expected = reference.scaffold(plan_of(factory, partial=partial), option="I")
    assert largest_difference(found, expected) < 1e-6


def adaptive(kind: str, eta: float, beta_1: float) -> Callable[[Plan], State]:
    """Reddi et al. 2021, algorithm 2, behind plain local training."""

    def loop(plan: Plan) -> State:
        m: dict[str, Tensor] = {}
        v: dict[str, Tensor] = {}

        def step(name: str, d: Tensor) -> Tensor:
            m[name] = beta_1 * m.get(name, torch.zeros_like(d)) + (1 - beta_1) * d
            last = v.get(name, torch.full_like(d, 0.01**2))
            v[name] = {
                "adagrad": last + d**2,
                "adam": 0.99 * last + 0.01 * d**2,
                "yogi": last - 0.01 * d**2 * torch.sign(last - d**2),
            }[kind]
            return eta * m[name] / (v[name].sqrt() + 0.01)

        return reference.by_server(plan, step)

    return loop


def momentum(plan: Plan) -> State:
    """Hsu et al. 2019."""
    v: dict[str, Tensor] = {}

    def step(name: str, d: Tensor) -> Tensor:
        v[name] = 0.9 * v.get(name, torch.zeros_like(d)) + d
        return 0.5 * v[name]

    return reference.by_server(plan, step)


SERVERS: dict[str, tuple[Callable[[], Strategy], Callable[[Plan], State]]] = {
    "fedavgm": (lambda: FedAvgM(beta=0.9, eta=0.5), momentum),
    "fedadagrad": (lambda: FedAdagrad(eta=0.1, tau=0.01), adaptive("adagrad", 0.1, 0.0)),
    "fedadam": (lambda: FedAdam(eta=0.05, tau=0.01), adaptive("adam", 0.05, 0.9)),
    "fedyogi": (lambda: FedYogi(eta=0.05, tau=0.01), adaptive("yogi", 0.05, 0.9)),
}


@pytest.mark.parametrize("net", [smooth, Normed])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", SERVERS)
def test_a_job_with_a_server_optimizer_equals_a_plain_loop(
    name: str, layout: str, net: Callable[[], nn.Module], tmp_path: Path
) -> None:
    strategy, loop = SERVERS[name]
    found = train(build(net), strategy, tmp_path, layout=LAYOUTS[layout])
    expected = loop(plan_of(build(net)))
    assert largest_difference(found, expected) < 1e-6
    assert np.isfinite(largest_difference(found, expected))
