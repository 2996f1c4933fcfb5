"""Epsilon against the library's own way, and against a closed form."""

import sys

import dp_accounting
import numpy as np
import pytest
from dp_accounting.rdp import RdpAccountant

from roles.errors import BadModel
from roles.privacy.accountant import SAMPLED_ORDERS, Accountant, Sampling

DELTA = 1e-5


def spent(sampling: Sampling, rounds: int, multiplier: float, *, asked: int = 10, population: int = 100) -> Accountant:
    accountant = Accountant(sampling, asked=asked, population=population)
    for _ in range(rounds):
        accountant.spend(multiplier)
    return accountant


def test_integer_orders_lose_little() -> None:
    # q = 0.01, z = 2, 1000 rounds: the library's own orders, of which some are not integers.
    with_own_orders = RdpAccountant(neighboring_relation=dp_accounting.NeighboringRelation.REPLACE_ONE)
    with_own_orders.compose(dp_accounting.SampledWithoutReplacementDpEvent(100, 1, dp_accounting.GaussianDpEvent(1.0)), 1000)
    found = spent("without_replacement", 1000, 2.0, asked=1, population=100).epsilon(DELTA)
    assert found == pytest.approx(with_own_orders.get_epsilon(DELTA), rel=2e-2)


def test_without_sampling_epsilon_follows_the_gaussian_mechanism() -> None:
    rounds, multiplier = 20, 8.0
    found = spent("none", rounds, multiplier).epsilon(DELTA)
    # Renyi divergence of order a: a T / (2 z^2); the classic conversion is an upper bound, the exact curve a lower one.
    orders = np.linspace(1.01, 200, 20_000)
    classic = np.min(orders * rounds / (2 * multiplier**2) + np.log(1 / DELTA) / (orders - 1))
    pld = dp_accounting.pld.PLDAccountant()
    pld.compose(dp_accounting.GaussianDpEvent(multiplier), rounds)
    assert pld.get_epsilon(DELTA) < found < classic


def test_replacing_a_client_counts_the_noise_half() -> None:
    reference = RdpAccountant(SAMPLED_ORDERS, dp_accounting.NeighboringRelation.REPLACE_ONE)
    reference.compose(dp_accounting.SampledWithoutReplacementDpEvent(100, 10, dp_accounting.GaussianDpEvent(2.0)), 5)
    assert spent("without_replacement", 5, 4.0).epsilon(DELTA) == pytest.approx(reference.get_epsilon(DELTA), rel=1e-12)


def test_sampling_amplifies_and_rounds_add_up() -> None:
    alone, sampled = spent("none", 10, 2.0), spent("without_replacement", 10, 2.0, asked=2)
    assert sampled.epsilon(DELTA) < alone.epsilon(DELTA) / 2
    assert spent("none", 0, 2.0).epsilon(DELTA) == 0.0
    assert alone.epsilon(DELTA) < spent("none", 11, 2.0).epsilon(DELTA)
    assert alone.epsilon(DELTA) > alone.epsilon(1e-3)


def test_rounds_of_different_noise_go_through_a_checkpoint() -> None:
    accountant = spent("without_replacement", 3, 1.5)
    accountant.spend(0.9)
    again = Accountant("without_replacement", asked=10, population=100)
    again.load_state_dict(accountant.state_dict())
    assert again.epsilon(DELTA) == accountant.epsilon(DELTA)
    again.spend(0.9)
    assert again.epsilon(DELTA) > accountant.epsilon(DELTA)


def test_a_missing_library_is_named_with_the_way_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "dp_accounting", None)
    with pytest.raises(BadModel, match="pip install dp-accounting"):
        Accountant("none", asked=1, population=1)
