"""FedGFT as whole jobs: fairer with each kind of bias, FedAvg without a penalty, the same through levels."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from roles import seeds
from roles.algorithms.bias import FAIRNESS, Fairness, Penalty, positives
from roles.algorithms.fedavg import FedAvg
from roles.algorithms.fedgft import FedGFT
from roles.settings import Settings
from roles.strategy import Strategy
from tests.algorithms.fairness import People, Regression, loss_of
from tests.algorithms.test_fedgft import bias_of, penalty_of, whole
from tests.roles.federation import Job, Layout, Record, federate, three_tier, two_tier

SIZES = ((1, 120, 0.2), (2, 80, 0.8), (3, 100, 0.5), (4, 60, 0.6))
SEED = 11


def data(*, items: int = 2, batch_size: int = 16) -> list[Callable[[], People]]:
    return [
        lambda seed=seed, samples=samples, share=share: People(  # type: ignore[misc]
            seed, samples, share=share, items=items, batch_size=batch_size
        )
        for seed, samples, share in SIZES
    ]


def run(
    strategy: Callable[[], Strategy],
    *,
    layout: Layout | None = None,
    rounds: int = 3,
    build: Callable[[], LightningModule] = Regression,
    batch_size: int = 16,
    options: Callable[[], dict[str, Any]] = dict,
) -> tuple[dict[str, Tensor], Record]:
    """What the first trainer ends with, and what the root reported."""
    layout = layout or two_tier(4)
    settings = Settings(seed=SEED, rounds=rounds, epochs=1, evaluate_every=0)
    job = Job(build_module=build, data=data(batch_size=batch_size), settings=settings, strategy=strategy, options=options)
    records = federate(layout, job)
    assert not [record.error for record in records.values() if record.error is not None]
    return records[layout.trainers[0]].state, records[layout.workers[0].name]


def global_bias(fair: Fairness, states: dict[str, Tensor]) -> float:
    module = Regression()
    module.load_state_dict(states)
    x, y, group = (torch.cat([build().set.tensors[i] for build in data(items=3)]) for i in range(3))
    return float(bias_of(fair, positives(module(x).detach()), y.double(), group))


@pytest.mark.parametrize("fair", FAIRNESS)
def test_each_kind_of_bias_is_lower_with_its_penalty(fair: Fairness) -> None:
    def build() -> LightningModule:
        return Regression(nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1)), lr=0.1)

    def last_bias(reg: Penalty, gamma: float) -> float:
        _, root = run(lambda: FedGFT(fair=fair, reg=reg, gamma=gamma, sensitive_feature=0), rounds=15, build=build)
        assert sorted(root.metrics_of("bias")) == list(range(1, 16))
        return abs(root.metrics_of("bias")[15])

    without = last_bias("l2", 0.0)
    assert without > 0.1
    assert last_bias("l2", 20.0 if fair == "CAL" else 10.0) < 0.4 * without
    assert last_bias("id", 5.0 if fair == "CAL" else 1.0) < 0.4 * without


@pytest.mark.parametrize("layout", [two_tier(4), three_tier({"eu": 3, "us": 1})], ids=["two_tier", "three_tier"])
def test_without_a_penalty_it_is_federated_averaging_to_the_bit(layout: Layout) -> None:
    plain, first = run(FedAvg, layout=layout)
    same, root = run(lambda: FedGFT(gamma=0.0, sensitive_feature=0), layout=layout)
    assert all(torch.equal(same[name], value) for name, value in plain.items())
    assert root.results[-1]["model_sha256"] == first.results[-1]["model_sha256"]
    assert len(root.metrics_of("bias")) == 3


def by_hand(fair: Fairness, reg: Penalty, gamma: float, *, rounds: int) -> dict[str, Tensor]:
    """The same job as a plain loop: the penalty is part of the loss, its terms of the batch are those of the definition."""
    seeds.apply(seeds.derive(SEED, "model"))
    module = Regression()
    state = {name: value.clone() for name, value in module.state_dict().items()}
    sets = [build() for build in data(items=3)]
    for round in range(1, rounds + 1):
        module.load_state_dict(state)
        x, y, group = (torch.cat([each.set.tensors[i] for each in sets]) for i in range(3))
        bias = whole(fair, positives(module(x)).detach(), y, group)
        slope = bias.slope(reg, gamma)
        states = []
        for index, each in enumerate(sets):
            module.load_state_dict(state)
            seeds.apply(seeds.derive(SEED, f"trainer-{index}", round))
            optimizer = torch.optim.SGD(module.parameters(), lr=module.lr)
            for batch in each.train_dataloader():
                p, ones, zeros = positives(module(batch[0])), (batch[2] == 1).double(), (batch[2] == 0).double()
                positive = batch[1].double()
                a, c = (p * positive * zeros).sum(), (p * positive * ones).sum()
                b, d = (p * zeros).sum(), (p * ones).sum()
                ratio = (a * bias.b - bias.a * b) / bias.b**2 - (c * bias.d - bias.c * d) / bias.d**2
                loss = loss_of(module(batch[0]), batch[1]) + slope * ratio / len(p)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            states.append({name: value.clone() for name, value in module.state_dict().items()})
        weights = torch.tensor([float(len(each.set)) for each in sets])
        state = {
            name: sum((weight * each[name].double() for weight, each in zip(weights, states, strict=True)), torch.zeros(())).float()
            / weights.sum()
            for name in state
        }
    return state


@pytest.mark.parametrize("layout", [two_tier(4), three_tier({"eu": 3, "us": 1})], ids=["two_tier", "three_tier"])
def test_a_job_is_a_plain_loop_with_the_penalty_in_its_loss(layout: Layout) -> None:
    _, root = run(lambda: FedGFT(fair="CAL", gamma=5.0, sensitive_feature=0), layout=layout, rounds=4)
    for round in (2, 3, 4):
        expected = global_bias("CAL", by_hand("CAL", "l2", 5.0, rounds=round - 1))
        assert root.metrics_of("bias")[round] == pytest.approx(expected, abs=1e-6)


def test_one_full_batch_is_a_step_down_the_whole_objective() -> None:
    seeds.apply(seeds.derive(SEED, "model"))
    module, sets = Regression(), [build() for build in data(items=3)]
    samples = sum(len(each.set) for each in sets)
    loss = sum((loss_of(module(each.set.tensors[0]), each.set.tensors[1]) * len(each.set) for each in sets), torch.zeros(()))
    (loss / samples + penalty_of("EOP", module, sets, "l2", 3.0)).backward()
    expected = {name: parameter.detach() - module.lr * parameter.grad for name, parameter in module.named_parameters()}  # type: ignore[operator]
    strategy = lambda: FedGFT(fair="EOP", gamma=3.0, sensitive_feature=0)  # noqa: E731
    _, root = run(strategy, rounds=2, batch_size=1000)
    assert root.metrics_of("bias")[2] == pytest.approx(global_bias("EOP", expected), abs=1e-6)


def test_gradients_that_are_accumulated_are_those_of_the_larger_batch() -> None:
    def strategy() -> Strategy:
        return FedGFT(fair="SP", gamma=4.0, sensitive_feature=0)

    # 120, 80, 100 and 60 samples are multiples of 20.
    _, large = run(strategy, batch_size=20)
    _, small = run(strategy, batch_size=10, options=lambda: {"accumulate_grad_batches": 2})
    assert large.metrics_of("bias")[3] == pytest.approx(small.metrics_of("bias")[3], abs=1e-6)


def test_batch_norm_dropout_and_momentum_go_with_it() -> None:
    def build() -> LightningModule:
        net = nn.Sequential(nn.Linear(3, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Dropout(0.2), nn.Linear(6, 2))
        return Regression(net, momentum=0.9, lr=0.05)

    plain, _ = run(FedAvg, build=build)
    state, root = run(lambda: FedGFT(gamma="auto", sensitive_feature=0), build=build)
    assert len(root.metrics_of("bias")) == 3
    assert int(state["net.1.num_batches_tracked"]) == int(plain["net.1.num_batches_tracked"])
    assert not torch.equal(state["net.0.weight"], plain["net.0.weight"])
