"""The algorithms with client halves as one plain PyTorch loop: no Lightning, no messages, means in float64."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.nn import functional

from roles import seeds
from tests.roles.specimens import Classifier

State = dict[str, Tensor]
Term = Callable[[str, Tensor], Tensor]
"""Name and value of a parameter -> what is added to its gradient."""


def everybody(round: int, worker: str) -> bool:
    """All ends take part in all rounds."""
    return True


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is trained, by whom and how. `data`: trainer -> its data, in the order of the plan."""

    build: Callable[[], Classifier]
    data: Mapping[str, LightningDataModule]
    seed: int = 4
    rounds: int = 4
    epochs: Mapping[str, int] = field(default_factory=dict)
    """Of single trainers; else 1."""
    accumulate: int = 1
    takes_part: Callable[[int, str], bool] = everybody

    def start(self) -> tuple[Classifier, State]:
        """The module, and its state in float64."""
        seeds.apply(seeds.derive(self.seed, "model"))
        module = self.build()
        return module, wide(module)

    def ends(self, round: int) -> dict[str, float]:
        """Who takes part in a round -> its samples."""
        return {
            worker: float(len(own.train_dataloader().dataset))
            for worker, own in self.data.items()
            if self.takes_part(round, worker)
        }


def wide(module: Classifier) -> State:
    """A copy of the state, floating-point entries in float64."""
    return {
        name: value.double().clone() if value.is_floating_point() else value.clone() for name, value in module.state_dict().items()
    }


def train(
    plan: Plan, module: Classifier, model: State, *, worker: str, round: int, term: Term | None = None
) -> tuple[State, list[float]]:
    """Local training from `model`.

    Returns:
        The state that it ends in, and the learning rate of each step.
    """
    module.load_state_dict(model)
    seeds.apply(seeds.derive(plan.seed, worker, round))
    module.train()
    optimizer = torch.optim.SGD([each for each in module.parameters() if each.requires_grad], module.lr, momentum=module.momentum)
    rates: list[float] = []
    data = plan.data[worker].train_dataloader()
    for epoch in range(plan.epochs.get(worker, 1)):
        optimizer.param_groups[0]["lr"] = module.lr * (module.gamma or 1.0) ** epoch
        for batch, (inputs, labels) in enumerate(data, start=1):
            (functional.cross_entropy(module(inputs).float(), labels) / plan.accumulate).backward()
            if batch % plan.accumulate == 0 or batch == len(data):
                if term is not None:
                    for name, parameter in module.named_parameters():
                        assert parameter.grad is not None
                        parameter.grad += term(name, parameter.detach()).to(parameter.dtype)
                optimizer.step()
                optimizer.zero_grad()
                rates.append(float(optimizer.param_groups[0]["lr"]))
    return wide(module), rates


def full_gradient(plan: Plan, module: Classifier, model: State, worker: str) -> State:
    """The gradient of the mean loss over all samples, for modules without buffers or random layers."""
    module.load_state_dict(model)
    whole = plan.data[worker].train_dataloader().dataset
    inputs, labels = whole[:]
    module.zero_grad()
    functional.cross_entropy(module(inputs).float(), labels).backward()
    found = {name: each.grad.double().clone() for name, each in module.named_parameters() if each.grad is not None}
    module.zero_grad()
    return found


def mean(states: Sequence[State], weights: Sequence[float]) -> State:
    """The weighted mean; the maximum of integers."""
    return {
        name: sum((w * state[name] for state, w in zip(states, weights, strict=True)), torch.zeros(())) / sum(weights)
        if like.is_floating_point()
        else torch.stack([state[name] for state in states]).max(0).values
        for name, like in states[0].items()
    }


def names_of(module: Classifier) -> list[str]:
    return [name for name, _ in module.named_parameters()]


def zeros(module: Classifier) -> State:
    return {name: torch.zeros_like(value, dtype=torch.float64) for name, value in module.named_parameters()}


def by_server(plan: Plan, step: Callable[[str, Tensor], Tensor]) -> State:
    """Plain local training; `step` gives what is added to a parameter for its weighted mean difference."""
    module, x = plan.start()
    for round in range(1, plan.rounds + 1):
        ends = plan.ends(round)
        average = mean([train(plan, module, x, worker=worker, round=round)[0] for worker in ends], list(ends.values()))
        x = {**average, **{name: x[name] + step(name, average[name] - x[name]) for name in names_of(module)}}
    return x


def pull(mu: float, x: State) -> Term:
    """The gradient of (mu / 2) ||w - x||^2."""
    return lambda name, w: mu * (w - x[name])


def fedprox(plan: Plan, mu: float) -> State:
    """Li et al. 2020."""
    module, x = plan.start()
    for round in range(1, plan.rounds + 1):
        ends, term = plan.ends(round), pull(mu, x)
        x = mean([train(plan, module, x, worker=worker, round=round, term=term)[0] for worker in ends], list(ends.values()))
    return x


def scaffold(plan: Plan, *, option: str = "II", eta_g: float = 1.0) -> State:
    """Karimireddy et al. 2020, algorithm 1."""
    module, x = plan.start()
    c, own = zeros(module), {worker: zeros(module) for worker in plan.data}
    for round in range(1, plan.rounds + 1):
        ends, states, changes = plan.ends(round), [], []
        for worker in ends:
            c_i = own[worker]
            gradient = full_gradient(plan, module, x, worker) if option == "I" else {}
            y, rates = train(plan, module, x, worker=worker, round=round, term=lambda name, w: c[name] - c_i[name])  # noqa: B023
            renewed = {name: gradient.get(name, c_i[name] - c[name] + (x[name] - y[name]) / sum(rates)) for name in c}
            states.append(y)
            changes.append({name: renewed[name] - c_i[name] for name in c})
            own[worker] = renewed
        average, change = mean(states, [1.0] * len(ends)), mean(changes, [1.0] * len(ends))
        x = {**average, **{name: x[name] + eta_g * (average[name] - x[name]) for name in c}}
        c = {name: c[name] + len(ends) / len(plan.data) * change[name] for name in c}
    return x


def feddyn(plan: Plan, alpha: float) -> State:
    """Acar et al. 2021, algorithm 1."""
    module, x = plan.start()
    h, own = zeros(module), {worker: zeros(module) for worker in plan.data}
    for round in range(1, plan.rounds + 1):
        ends, states = plan.ends(round), []
        for worker in ends:
            g = own[worker]
            term = pull(alpha, x)
            y, _ = train(plan, module, x, worker=worker, round=round, term=lambda name, w: term(name, w) - g[name])  # noqa: B023
            states.append(y)
            own[worker] = {name: g[name] - alpha * (y[name] - x[name]) for name in g}
        for name in h:
            h[name] = h[name] - alpha / len(plan.data) * sum(y[name] - x[name] for y in states)
        average = mean(states, [1.0] * len(ends))
        x = {**average, **{name: average[name] - h[name] / alpha for name in h}}
    return x


def fednova(plan: Plan, mu: float = 0.0) -> State:
    """Wang et al. 2020, equations 6 and 7, with a_i of section 4.1; buffers by the weights n_i / a_i."""
    module, x = plan.start()
    for round in range(1, plan.rounds + 1):
        ends, states, a = plan.ends(round), [], []
        for worker in ends:
            y, rates = train(plan, module, x, worker=worker, round=round, term=pull(mu, x))
            states.append(y)
            a.append(norm_of_a(len(rates), rho=module.momentum, eta_mu=module.lr * mu))
        p = [samples / sum(ends.values()) for samples in ends.values()]
        tau = sum(share * norm for share, norm in zip(p, a, strict=True))
        average = mean(states, [share / norm for share, norm in zip(p, a, strict=True)])
        for name in names_of(module):
            normalised = sum(share / norm * (y[name] - x[name]) for share, norm, y in zip(p, a, states, strict=True))
            average[name] = x[name] + tau * normalised
        x = average
    return x


def norm_of_a(steps: int, *, rho: float, eta_mu: float) -> float:
    """||a||_1 for plain SGD, momentum rho, or a proximal term; not for both of these."""
    if rho:
        return (steps - rho * (1 - rho**steps) / (1 - rho)) / (1 - rho)
    return (1 - (1 - eta_mu) ** steps) / eta_mu if eta_mu else float(steps)
