import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from roles.algorithms.steps import Steps, UnitPath
from roles.errors import BadModel

rates = st.lists(st.floats(0.001, 1), min_size=1, max_size=8)


@settings(max_examples=60, deadline=None)
@given(
    rates=rates,
    momentum=st.sampled_from([0.0, 0.5, 0.9]),
    dampening=st.sampled_from([0.0, 0.3]),
    nesterov=st.booleans(),
    mu=st.sampled_from([0.0, 0.1]),
)
def test_a_unit_gradient_moves_a_number_as_far_as_sgd_of_torch_moves_it(
    rates: list[float], momentum: float, dampening: float, nesterov: bool, mu: float
) -> None:
    nesterov, dampening = nesterov and momentum > 0, 0.0 if nesterov else dampening
    value = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.SGD([value], lr=1.0, momentum=momentum, dampening=dampening, nesterov=nesterov)
    path = UnitPath(mu)
    for rate in rates:
        optimizer.param_groups[0]["lr"] = rate
        value.grad = 1 + mu * value.detach()
        path.step(optimizer.param_groups[0])
        optimizer.step()
    assert path.moved == pytest.approx(-float(value.detach()), rel=1e-12)


def path_of(steps: int, *, lr: float, momentum: float = 0.0, mu: float = 0.0) -> float:
    path = UnitPath(mu)
    for _ in range(steps):
        path.step({"lr": lr, "momentum": momentum, "dampening": 0.0, "nesterov": False})
    return path.moved


@settings(max_examples=40, deadline=None)
@given(steps=st.integers(1, 40), lr=st.floats(0.001, 0.5), rho=st.floats(0.05, 0.95), mu=st.floats(0.01, 1))
def test_momentum_and_a_proximal_term_give_the_sums_of_the_fednova_paper(steps: int, lr: float, rho: float, mu: float) -> None:
    assert path_of(steps, lr=lr) == pytest.approx(lr * steps)
    with_momentum = (steps - rho * (1 - rho**steps) / (1 - rho)) / (1 - rho)
    assert path_of(steps, lr=lr, momentum=rho) == pytest.approx(lr * with_momentum)
    proximal = (1 - (1 - lr * mu) ** steps) / (lr * mu)
    assert path_of(steps, lr=lr, mu=mu) == pytest.approx(lr * proximal)


def parameters(*names: str) -> dict[str, nn.Parameter]:
    return {name: nn.Parameter(torch.zeros(2)) for name in names}


def test_each_group_of_an_optimizer_has_its_own_way() -> None:
    own = parameters("a", "b", "unmoved")
    optimizer = torch.optim.SGD([{"params": [own["a"]], "lr": 0.1}, {"params": [own["b"]], "lr": 0.2, "momentum": 0.5}])
    steps = Steps("X")
    steps.begin([optimizer], own)
    for _ in range(2):
        steps.count(optimizer)
    assert steps.moved() == pytest.approx({"a": 0.2, "b": 0.5})
    steps.begin([optimizer], own)
    for _ in range(2):
        steps.count(optimizer)
    with pytest.raises(BadModel, match=r"'a' goes 0\.2 and 'b' 0\.5; give all exchanged parameters one learning rate"):
        steps.one()


def test_several_optimizers_count_their_own_steps() -> None:
    own = parameters("a", "b")
    optimizers = [torch.optim.SGD([each], lr=0.1) for each in own.values()]
    steps = Steps("X")
    steps.begin(optimizers, own)
    for optimizer in (*optimizers, *optimizers, optimizers[1]):
        steps.count(optimizer)
    assert steps.moved() == pytest.approx({"a": 0.2, "b": 0.3})
    for optimizer in (*optimizers, optimizers[1]):
        steps.count(optimizer)
    with pytest.raises(BadModel, match="same number of steps"):
        steps.one()
    with pytest.raises(BadModel, match="saw none"):
        steps.moved()


def test_an_optimizer_of_what_is_not_exchanged_may_be_any() -> None:
    own, others = parameters("a"), parameters("b")
    optimizers = [torch.optim.SGD(own.values(), lr=0.5), torch.optim.Adam(others.values())]
    steps = Steps("X")
    steps.begin(optimizers, own)
    for optimizer in optimizers[:1]:
        steps.count(optimizer)
    assert steps.one() == 0.5


def test_optimizers_whose_way_is_not_known_are_refused_with_advice() -> None:
    own = parameters("a")
    advice = "known for torch.optim.SGD and not for Adam: use SGD in configure_optimizers, or else"
    with pytest.raises(BadModel, match=advice):
        Steps("X", advice=", or else").begin([torch.optim.Adam(own.values())], own)
    with pytest.raises(BadModel, match="maximize=True"):
        Steps("X").begin([torch.optim.SGD(own.values(), maximize=True)], own)
    kept = torch.optim.SGD(own.values(), momentum=0.9)
    own["a"].grad = torch.ones(2)
    kept.step()
    with pytest.raises(BadModel, match=r"set job\.optimizer=reset"):
        Steps("X").begin([kept], own)


def test_a_parameter_of_two_optimizers_is_refused_by_name() -> None:
    own = parameters("a", "b")
    optimizers = [torch.optim.SGD(own.values(), lr=0.1), torch.optim.SGD([own["b"]], lr=0.1)]
    with pytest.raises(BadModel, match="parameter 'b' is moved by several optimizers"):
        Steps("X").begin(optimizers, own)


def test_a_round_without_steps_is_an_error() -> None:
    own = parameters("a")
    steps = Steps("X")
    steps.begin([torch.optim.SGD(own.values(), lr=0.1)], own)
    with pytest.raises(BadModel, match="counts the steps of optimizers and saw none"):
        steps.moved()
