from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from roles.algorithms.fedavg import FedAvg
from roles.algorithms.feddyn import FedDyn
from roles.algorithms.fednova import FedNova
from roles.algorithms.fedprox import FedProx
from roles.algorithms.scaffold import Scaffold
from roles.strategy import Strategy
from tests.algorithms import rounds as of
from tests.algorithms.rounds import POPULATION, SHAPES, Arrays, Rounds, begun, random_rounds, run
from transports.message import TensorSpec

TOLERANCES = {torch.float64: 1e-10, torch.float32: 1e-5}
dtypes = st.sampled_from(list(TOLERANCES))
FACTORIES: dict[str, Callable[[], Strategy]] = {"scaffold": Scaffold, "feddyn": FedDyn, "fednova": FedNova, "fedprox": FedProx}


def with_controls(rounds: Rounds, seed: int) -> Rounds:
    """The same rounds whose updates also say how their control variate changed."""
    generator = np.random.default_rng(seed)
    return [[replace(each, further={"control": of.arrays(generator)}) for each in sent] for sent in rounds]


def with_steps(rounds: Rounds, moved: Callable[[], float]) -> Rounds:
    """The same rounds as trainers of FedNova send them, whose steps went as far as `moved` says."""

    def nova(each: of.Sent) -> of.Sent:
        far = moved()
        return replace(each, weight=each.weight / far, sums={"nova_weight": each.weight, "nova_movement": each.weight * far})

    return [[nova(each) for each in sent] for sent in rounds]


def completed(name: str, rounds: Rounds) -> Rounds:
    """The rounds with what updates of an algorithm hold besides weights."""
    if name == "scaffold":
        return with_controls(rounds, 0)
    return with_steps(rounds, lambda: 0.5) if name == "fednova" else rounds


@settings(max_examples=40, deadline=None)
@given(rounds=random_rounds(weights=False), eta_g=st.sampled_from([1.0, 0.3, 1.7]), dtype=dtypes)
def test_scaffold_steps_by_its_rate_and_moves_c_by_the_share_of_the_ends(rounds: Rounds, eta_g: float, dtype: torch.dtype) -> None:
    rounds = with_controls(rounds, 3)
    strategy = begun(Scaffold(eta_g=eta_g), dtype)
    found = run(strategy, rounds, dtype)
    x = of.start()
    c = {name: np.zeros(shape) for name, shape in SHAPES.items()}
    for sent in rounds:
        for name in x:
            x[name] = x[name] + eta_g * of.mean_difference(sent, name)
            c[name] = c[name] + sum(each.further["control"][name] for each in sent) / POPULATION
    of.assert_near(found, x, TOLERANCES[dtype])
    of.assert_near(strategy.down()["control"], c, TOLERANCES[dtype])


def test_scaffold_sends_c_in_single_precision_at_least_and_expects_its_changes_so() -> None:
    strategy = begun(Scaffold(), torch.bfloat16)
    down = strategy.down()["control"]
    assert {value.dtype for value in down.values()} == {torch.float32}
    specs = {name: TensorSpec(value.dtype, tuple(value.shape)) for name, value in down.items()}
    assert strategy.up_specs({"weights": {}, "control": specs}) == {"control": specs}
    assert down.keys() == SHAPES.keys()


@settings(max_examples=40, deadline=None)
@given(rounds=random_rounds(weights=False), alpha=st.sampled_from([1e-3, 0.01, 1.0]), dtype=dtypes)
def test_feddyn_corrects_the_plain_mean_by_h(rounds: Rounds, alpha: float, dtype: torch.dtype) -> None:
    x = of.start()
    h = {name: np.zeros(shape) for name, shape in SHAPES.items()}
    for sent in rounds:
        for name in x:
            h[name] = h[name] - alpha / POPULATION * sum(each.differences[name] for each in sent)
            x[name] = x[name] + np.mean([each.differences[name] for each in sent], axis=0) - h[name] / alpha
    of.assert_near(run(begun(FedDyn(alpha=alpha), dtype), rounds, dtype), x, TOLERANCES[dtype])


def plain(rounds: Rounds) -> Arrays:
    state = run(begun(FedAvg()), rounds)
    return {name: state[name].numpy() for name in SHAPES}


@settings(max_examples=15, deadline=None)
@given(rounds=random_rounds(weights=False))
def test_feddyn_without_regularisation_is_federated_averaging_to_the_bit(rounds: Rounds) -> None:
    of.assert_near(run(begun(FedDyn(alpha=0.0)), rounds), plain(rounds), 0)
    assert FedDyn(alpha=0.0).client() is None


@settings(max_examples=40, deadline=None)
@given(rounds=random_rounds(), seed=st.integers(0, 1000), dtype=dtypes)
def test_fednova_is_the_normalised_mean_times_the_mean_of_the_steps(rounds: Rounds, seed: int, dtype: torch.dtype) -> None:
    generator = np.random.default_rng(seed)
    x, sent_rounds = of.start(), []
    for sent in rounds:
        far = [float(value) for value in generator.uniform(0.05, 3, len(sent))]
        share = np.array([each.weight for each in sent]) / sum(each.weight for each in sent)
        tau = float(share @ far)
        for name in x:
            normalised = [each.differences[name] / a for each, a in zip(sent, far, strict=True)]
            x[name] = x[name] + tau * sum(p * d for p, d in zip(share, normalised, strict=True))
        sent_rounds += with_steps([sent], iter(far).__next__)
    of.assert_near(run(begun(FedNova(), dtype), sent_rounds, dtype), x, TOLERANCES[dtype])


@settings(max_examples=25, deadline=None)
@given(rounds=random_rounds(), far=st.floats(1e-4, 100))
def test_fednova_with_equal_steps_is_federated_averaging(rounds: Rounds, far: float) -> None:
    of.assert_near(run(begun(FedNova()), with_steps(rounds, lambda: far)), plain(rounds), 1e-10)


@settings(max_examples=15, deadline=None)
@given(rounds=random_rounds())
def test_fedprox_averages_at_the_server_as_federated_averaging_does(rounds: Rounds) -> None:
    of.assert_near(run(begun(FedProx(mu=1.0)), rounds), plain(rounds), 0)


@pytest.mark.parametrize("name", FACTORIES)
@settings(max_examples=15, deadline=None)
@given(rounds=random_rounds(weights=False))
def test_buffers_are_averaged_and_never_corrected(name: str, rounds: Rounds) -> None:
    rounds = completed(name, rounds)
    of.assert_averaged_buffers(run(begun(FACTORIES[name]()), rounds), rounds)


@pytest.mark.parametrize("name", FACTORIES)
@settings(max_examples=10, deadline=None)
@given(rounds=random_rounds(weights=False), split=st.integers(0, 3))
def test_a_server_that_is_started_anew_goes_on_to_the_same_bits(
    name: str, rounds: Rounds, split: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    rounds, folder = completed(name, rounds), tmp_path_factory.mktemp("state")
    expected, current = begun(FACTORIES[name]()), of.whole(of.start(), torch.float64)
    found = begun(FACTORIES[name]())
    for number, sent in enumerate(rounds, start=1):
        if number == split:
            state = of.saved(found.state_dict(), folder)
            found = begun(FACTORIES[name]())
            found.load_state_dict(state)
        one, other = (of.after(strategy, current, sent, number) for strategy in (expected, found))
        assert all(torch.equal(one[entry], other[entry]) for entry in one)
        assert str(expected.down()) == str(found.down())
        current = one


@pytest.mark.parametrize(
    ("build", "text"),
    [
        (lambda: Scaffold(option="III"), "scaffold.option must be I or II, not 'III'"),  # type: ignore[arg-type]
        (lambda: Scaffold(eta_g=-1.0), "scaffold.eta_g must be above 0, not -1.0"),
        (lambda: FedDyn(alpha=-0.1), "feddyn.alpha must be a number from 0 on, not -0.1"),
        (lambda: FedNova(mu=float("nan")), "fednova.mu must be a number from 0 on, not nan"),
        (lambda: FedProx(mu=float("inf")), "fedprox.mu must be a number from 0 on, not inf"),
    ],
)
def test_a_hyperparameter_that_cannot_be_is_named_with_what_could_be(build: Callable[[], Any], text: str) -> None:
    with pytest.raises(ValueError, match="must be") as caught:
        build()
    assert str(caught.value) == text
