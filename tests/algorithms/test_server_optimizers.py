from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from roles.algorithms.fedavg import FedAvg
from roles.algorithms.fedavgm import FedAvgM
from roles.algorithms.fedopt import FedAdagrad, FedAdam, FedYogi
from roles.algorithms.server import ServerOptimizer
from roles.strategy import About, Gathered
from tests.algorithms import rounds as of
from tests.algorithms.rounds import Arrays, Rounds, begun, random_rounds, run

fractions = st.floats(0, 0.999)
rates = st.floats(1e-3, 2)
TOLERANCES = {torch.float64: 1e-9, torch.float32: 5e-3}
"""A step of the adaptive ones is as large as eta whatever the size of d: near d = 0 single precision decides its sign."""

FACTORIES: dict[str, Callable[[], ServerOptimizer]] = {
    "fedavgm": FedAvgM,
    "fedadagrad": lambda: FedAdagrad(beta_1=0.5),
    "fedadam": FedAdam,
    "fedyogi": FedYogi,
}


def oracle_momentum(rounds: Rounds, beta: float, eta: float) -> Arrays:
    x = of.start()
    v = {name: np.zeros_like(value) for name, value in x.items()}
    for sent in rounds:
        for name in x:
            v[name] = beta * v[name] + of.mean_difference(sent, name)
            x[name] = x[name] + eta * v[name]
    return x


def oracle_fedopt(rounds: Rounds, kind: str, *, beta_1: float, beta_2: float, eta: float, tau: float) -> Arrays:
    """Reddi et al. 2021, algorithm 2, line by line."""
    x = of.start()
    m = {name: np.zeros_like(value) for name, value in x.items()}
    v = {name: np.full_like(value, tau**2) for name, value in x.items()}
    for sent in rounds:
        for name in x:
            d = of.mean_difference(sent, name)
            m[name] = beta_1 * m[name] + (1 - beta_1) * d
            if kind == "adagrad":
                v[name] = v[name] + d**2
            elif kind == "adam":
                v[name] = beta_2 * v[name] + (1 - beta_2) * d**2
            else:
                v[name] = v[name] - (1 - beta_2) * d**2 * np.sign(v[name] - d**2)
            x[name] = x[name] + eta * m[name] / (np.sqrt(v[name]) + tau)
    return x


@settings(max_examples=40, deadline=None)
@given(rounds=random_rounds(), beta=fractions, eta=rates, dtype=st.sampled_from(list(TOLERANCES)))
def test_momentum_equals_its_formula(rounds: Rounds, beta: float, eta: float, dtype: torch.dtype) -> None:
    found = run(begun(FedAvgM(beta=beta, eta=eta), dtype), rounds, dtype)
    of.assert_near(found, oracle_momentum(rounds, beta, eta), TOLERANCES[dtype])


@settings(max_examples=60, deadline=None)
@given(
    rounds=random_rounds(),
    kind=st.sampled_from(["adagrad", "adam", "yogi"]),
    beta_1=fractions,
    beta_2=fractions,
    eta=rates,
    tau=st.sampled_from([1e-3, 1e-2, 0.1]),
    dtype=st.sampled_from(list(TOLERANCES)),
)
def test_adaptive_servers_equal_algorithm_2_of_their_paper(
    *, rounds: Rounds, kind: str, beta_1: float, beta_2: float, eta: float, tau: float, dtype: torch.dtype
) -> None:
    classes: dict[str, Any] = {"adagrad": FedAdagrad, "adam": FedAdam, "yogi": FedYogi}
    second = {} if kind == "adagrad" else {"beta_2": beta_2}
    strategy = classes[kind](beta_1=beta_1, eta=eta, tau=tau, **second)
    found = run(begun(strategy, dtype), rounds, dtype)
    expected = oracle_fedopt(rounds, kind, beta_1=beta_1, beta_2=beta_2, eta=eta, tau=tau)
    of.assert_near(found, expected, TOLERANCES[dtype])


def by_torch(rounds: Rounds, build: Callable[[list[torch.Tensor]], torch.optim.Optimizer]) -> Arrays:
    """The same rounds with an optimizer of torch on the pseudo-gradient, which is the mean difference with its sign changed."""
    x = {name: torch.tensor(value, requires_grad=True) for name, value in of.start().items()}
    optimizer = build(list(x.values()))
    for sent in rounds:
        for name, value in x.items():
            value.grad = -torch.tensor(of.mean_difference(sent, name))
        optimizer.step()
    return {name: value.detach().numpy() for name, value in x.items()}


def uncorrected_adam(parameters: list[torch.Tensor], tau: float) -> torch.optim.Optimizer:
    optimizer = torch.optim.Adam(parameters, lr=0.05, betas=(0.8, 0.95), eps=tau)
    for each in parameters:
        # So late that the corrections of the bias are 1 to the last bit.
        moments = {"exp_avg": torch.zeros_like(each), "exp_avg_sq": torch.full_like(each, tau**2)}
        optimizer.state[each] = {"step": torch.tensor(1e6), **moments}
    return optimizer


class Yogi(torch.optim.Optimizer):
    """Zaheer, Reddi, Sachan, Kale, Kumar, "Adaptive Methods for Nonconvex Optimization", NeurIPS 2018, algorithm 2: v
    starts at `initial`, and no bias is corrected, as in Reddi et al. 2021.
    """

    def __init__(
        self, parameters: list[torch.Tensor], *, lr: float, betas: tuple[float, float], eps: float, initial: float
    ) -> None:
        super().__init__(parameters, {"lr": lr, "betas": betas, "eps": eps, "initial": initial})

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """One step along the gradients of all parameters."""
        for group in self.param_groups:
            first, second = group["betas"]
            for parameter in group["params"]:
                g = parameter.grad
                m = self.state[parameter].get("m", torch.zeros_like(parameter))
                v = self.state[parameter].get("v", torch.full_like(parameter, group["initial"]))
                m = torch.lerp(g, m, first)
                v = torch.where(v > g * g, v - (1 - second) * g * g, torch.where(v < g * g, v + (1 - second) * g * g, v))
                parameter.sub_(group["lr"] * m / (torch.sqrt(v) + group["eps"]))
                self.state[parameter].update(m=m, v=v)


@settings(max_examples=25, deadline=None)
@given(rounds=random_rounds())
def test_momentum_is_sgd_of_torch_on_the_pseudo_gradient(rounds: Rounds) -> None:
    expected = by_torch(rounds, lambda parameters: torch.optim.SGD(parameters, lr=0.7, momentum=0.9))
    of.assert_near(run(begun(FedAvgM(beta=0.9, eta=0.7)), rounds), expected, 1e-9)


@settings(max_examples=25, deadline=None)
@given(rounds=random_rounds())
def test_adagrad_is_that_of_torch_on_the_pseudo_gradient(rounds: Rounds) -> None:
    tau = 0.01
    expected = by_torch(rounds, lambda each: torch.optim.Adagrad(each, lr=0.1, eps=tau, initial_accumulator_value=tau**2))
    of.assert_near(run(begun(FedAdagrad(eta=0.1, tau=tau)), rounds), expected, 1e-9)


@settings(max_examples=25, deadline=None)
@given(rounds=random_rounds())
def test_adam_is_that_of_torch_without_correction_of_the_bias(rounds: Rounds) -> None:
    tau = 0.01
    expected = by_torch(rounds, lambda parameters: uncorrected_adam(parameters, tau))
    strategy = FedAdam(beta_1=0.8, beta_2=0.95, eta=0.05, tau=tau)
    of.assert_near(run(begun(strategy), rounds), expected, 1e-9)


@settings(max_examples=25, deadline=None)
@given(rounds=random_rounds())
def test_yogi_is_that_of_its_own_paper_on_the_pseudo_gradient(rounds: Rounds) -> None:
    tau = 0.01
    expected = by_torch(rounds, lambda each: Yogi(each, lr=0.05, betas=(0.8, 0.95), eps=tau, initial=tau**2))
    strategy = FedYogi(beta_1=0.8, beta_2=0.95, eta=0.05, tau=tau)
    of.assert_near(run(begun(strategy), rounds), expected, 1e-9)


@pytest.mark.parametrize("name", FACTORIES)
@settings(max_examples=15, deadline=None)
@given(rounds=random_rounds())
def test_buffers_are_averaged_and_never_stepped(name: str, rounds: Rounds) -> None:
    of.assert_averaged_buffers(run(begun(FACTORIES[name]()), rounds), rounds)


@settings(max_examples=15, deadline=None)
@given(rounds=random_rounds())
def test_no_momentum_at_rate_one_is_federated_averaging(rounds: Rounds) -> None:
    plain = run(begun(FedAvg()), rounds)
    of.assert_near(run(begun(FedAvgM(beta=0.0)), rounds), {name: plain[name].numpy() for name in of.SHAPES}, 1e-12)


@pytest.mark.parametrize("name", FACTORIES)
@settings(max_examples=10, deadline=None)
@given(rounds=random_rounds(), split=st.integers(0, 3))
def test_a_server_that_is_started_anew_goes_on_to_the_same_bits(
    name: str, rounds: Rounds, split: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder: Path = tmp_path_factory.mktemp("state")
    expected, current = begun(FACTORIES[name]()), of.whole(of.start(), torch.float64)
    found = begun(FACTORIES[name]())
    for number, sent in enumerate(rounds, start=1):
        if number == split:
            state = of.saved(found.state_dict(), folder)
            found = begun(FACTORIES[name]())
            found.load_state_dict(state)
        one, other = (of.after(strategy, current, sent, number) for strategy in (expected, found))
        assert all(torch.equal(one[entry], other[entry]) for entry in one)
        current = one


@pytest.mark.parametrize("name", FACTORIES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_state_is_kept_in_single_precision_at_least(name: str, dtype: torch.dtype) -> None:
    strategy = begun(FACTORIES[name](), dtype)
    for tensors in strategy.state_dict().values():
        assert {value.dtype for value in tensors.values()} == {torch.float32}
        assert tensors.keys() == of.SHAPES.keys()


def test_small_steps_add_up_in_half_precision_where_the_state_would_lose_them() -> None:
    small = {entry: np.full(shape, 1e-3) for entry, shape in of.SHAPES.items()}
    rounds = [[of.Sent(small, 1.0, np.zeros(2), 0)]] * 3
    strategy = begun(FedAvgM(beta=0.9), torch.bfloat16)
    current = of.whole({name: np.zeros(shape) for name, shape in of.SHAPES.items()}, torch.bfloat16)
    for number, sent in enumerate(rounds, start=1):
        current = of.after(strategy, current, sent, number)
    step = float(torch.tensor(1e-3).bfloat16())
    assert float(strategy.state_dict()["v"]["bias"][0]) == pytest.approx(step * (1 + 0.9 + 0.81), rel=0.02)


def test_complex_parameters_are_stepped_as_pairs_of_real_ones() -> None:
    value = torch.tensor([1 + 2j, -0.5 + 0j], dtype=torch.complex64)
    pair = torch.view_as_real(value).clone()
    results = []
    for start in (value, pair):
        strategy = FedAdam(eta=0.1)
        strategy.begin(About(start={"w": start}, parameters=frozenset({"w"}), population=1, seed=0))
        sent = start * 0.5
        gathered = Gathered(groups={"weights": {"w": sent}}, weight=1.0, samples=1, count=1)
        results.append(strategy.step({"w": start}, gathered, 1)["w"])
    assert torch.equal(torch.view_as_real(results[0]), results[1])


@pytest.mark.parametrize(
    ("build", "text"),
    [
        (lambda: FedAvgM(beta=1.0), "fedavgm.beta must be in [0, 1), not 1.0"),
        (lambda: FedAvgM(eta=0.0), "fedavgm.eta must be above 0, not 0.0"),
        (lambda: FedAdam(beta_1=-0.1), "fedadam.beta_1 must be in [0, 1), not -0.1"),
        (lambda: FedAdam(beta_2=float("nan")), "fedadam.beta_2 must be in [0, 1), not nan"),
        (lambda: FedYogi(tau=0.0), "fedyogi.tau must be above 0, not 0.0"),
        (lambda: FedAdagrad(eta=float("inf")), "fedadagrad.eta must be above 0, not inf"),
    ],
)
def test_a_hyperparameter_that_cannot_be_is_named_with_what_could_be(build: Callable[[], Any], text: str) -> None:
    with pytest.raises(ValueError, match="must be") as caught:
        build()
    assert str(caught.value) == text


def test_state_of_other_parameters_is_refused() -> None:
    state = begun(FedAdam()).state_dict()
    state["m"] = {**state["m"], "bias": torch.zeros(4)}
    with pytest.raises(ValueError, match="stored state of FedAdam is of other parameters: \\['bias'\\] differ"):
        begun(FedAdam()).load_state_dict(state)
    with pytest.raises(ValueError, match="FedAvgM keeps \\['v'\\], the checkpoint has \\['m', 'v'\\]"):
        begun(FedAvgM()).load_state_dict(state)
