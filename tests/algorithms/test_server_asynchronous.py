from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from roles.algorithms.fedasync import FedAsync
from roles.algorithms.fedavg import FedAvg
from roles.algorithms.fedbuff import FedBuff
from roles.strategy import Buffer, Strategy
from tests.algorithms import rounds as of
from tests.algorithms.rounds import COUNT, RUNNING, SHAPES, Rounds, begun, random_rounds, run

TOLERANCES = {torch.float64: 1e-10, torch.float32: 1e-4}
dtypes = st.sampled_from(list(TOLERANCES))


def aged(rounds: Rounds, strategy: Strategy, seed: int) -> tuple[Rounds, list[list[int]]]:
    """The rounds with updates of random ages up to 20 rounds, weighted by the strategy's own function; and the ages."""
    generator = np.random.default_rng(seed)
    ages = [[int(age) for age in generator.integers(0, 20, len(sent))] for sent in rounds]
    weighted = [
        [replace(each, factor=strategy.staleness_weight(age)) for each, age in zip(sent, of_round, strict=True)]
        for sent, of_round in zip(rounds, ages, strict=True)
    ]
    return weighted, ages


@settings(max_examples=50, deadline=None)
@given(
    rounds=random_rounds(weights=False),
    seed=st.integers(0, 1000),
    eta_g=st.sampled_from([1.0, 0.1, 2.0]),
    a=st.sampled_from([0.5, 0.0, 2.0]),
    dtype=dtypes,
)
def test_fedbuff_adds_the_sum_of_aged_differences_over_the_size_of_the_buffer(
    rounds: Rounds, seed: int, eta_g: float, a: float, dtype: torch.dtype
) -> None:
    strategy = begun(FedBuff(eta_g=eta_g, a=a), dtype)
    sent_rounds, ages = aged(rounds, strategy, seed)
    x, running, count = of.start(), np.full(2, 0.5), 0
    for sent, old in zip(rounds, ages, strict=True):
        scales = [1 / (1 + t) ** a for t in old]
        for name in x:
            total = sum(s * each.differences[name] for s, each in zip(scales, sent, strict=True))
            x[name] = x[name] + eta_g * total / len(sent)
        mean, s = of.weighted([each.running for each in sent], scales), sum(scales) / len(sent)
        running, count = (1 - s) * running + s * mean, max(count, *(each.count for each in sent))
    found = run(strategy, sent_rounds, dtype)
    of.assert_near(found, x, TOLERANCES[dtype])
    np.testing.assert_allclose(found[RUNNING].double().numpy(), running, rtol=0, atol=TOLERANCES[dtype])
    assert int(found[COUNT]) == count


@settings(max_examples=25, deadline=None)
@given(rounds=random_rounds(weights=False))
def test_a_full_buffer_of_fresh_updates_is_federated_averaging(rounds: Rounds) -> None:
    # The counters of FedBuff never go back; those of the mean may, where an end has counted less.
    rounds = [[replace(each, count=number) for each in sent] for number, sent in enumerate(rounds)]
    plain = run(begun(FedAvg()), rounds)
    found = run(begun(FedBuff()), rounds)
    of.assert_near(found, {name: value.numpy() for name, value in plain.items()}, 1e-12)
    assert torch.equal(found[COUNT], plain[COUNT])


def oracle_age(kind: str, age: int, a: float, b: float) -> float:
    if kind == "constant":
        return 1.0
    if kind == "polynomial":
        return float(1 / (age + 1) ** a)
    return 1.0 if age <= b else 1 / (a * (age - b) + 1)


@settings(max_examples=50, deadline=None)
@given(
    rounds=random_rounds(weights=False),
    seed=st.integers(0, 1000),
    alpha=st.floats(0.01, 1),
    kind=st.sampled_from(["constant", "polynomial", "hinge"]),
    dtype=dtypes,
)
def test_fedasync_mixes_each_update_in_by_its_age(rounds: Rounds, seed: int, alpha: float, kind: Any, dtype: torch.dtype) -> None:
    rounds = [[each] for sent in rounds for each in sent]
    strategy = begun(FedAsync(alpha=alpha, staleness=kind), dtype)
    sent_rounds, ages = aged(rounds, strategy, seed)
    defaults = {"constant": 0.0, "polynomial": 0.5, "hinge": 10.0}
    x, running, count = of.start(), np.full(2, 0.5), 0
    for (each,), (age,) in zip(rounds, ages, strict=True):
        mixed = alpha * oracle_age(kind, age, defaults[kind], 4)
        for name in x:
            new = x[name] + each.differences[name]
            x[name] = (1 - mixed) * x[name] + mixed * new
        running, count = (1 - mixed) * running + mixed * each.running, max(count, each.count)
    found = run(strategy, sent_rounds, dtype)
    of.assert_near(found, x, TOLERANCES[dtype])
    np.testing.assert_allclose(found[RUNNING].double().numpy(), running, rtol=0, atol=TOLERANCES[dtype])
    assert int(found[COUNT]) == count


def test_fedasync_with_all_weight_on_the_new_takes_its_model() -> None:
    sent = [of.Sent(of.arrays(np.random.default_rng(2)), 1.0, np.ones(2), 3)]
    x = of.start()
    found = run(begun(FedAsync(alpha=1.0, staleness="constant")), [sent])
    of.assert_near(found, {name: x[name] + sent[0].differences[name] for name in SHAPES}, 1e-14)


def test_the_buffers_are_what_the_papers_say() -> None:
    assert FedBuff().buffer(root=True) == Buffer(size=10, concurrency=None, repeat=False)
    fedbuff = FedBuff(k=3, middle_k=2, concurrency=5, repeat=True)
    assert fedbuff.buffer(root=True) == Buffer(size=3, concurrency=5, repeat=True)
    assert fedbuff.buffer(root=False) == Buffer(size=2, concurrency=5, repeat=True)
    assert FedAsync(concurrency=4).buffer(root=True) == Buffer(size=1, concurrency=4)


def test_what_an_update_counts_falls_with_its_age_and_never_to_zero() -> None:
    strategies = (FedBuff(), FedAsync(), FedAsync(staleness="hinge"), FedAsync(staleness="constant"))
    for strategy in strategies:
        weights = [strategy.staleness_weight(age) for age in range(1000)]
        assert weights[0] == 1.0
        assert weights == sorted(weights, reverse=True)
        assert min(weights) > 0
    assert FedBuff().staleness_weight(3) == 0.5
    assert FedAsync(staleness="hinge").staleness_weight(4) == 1.0
    assert FedAsync(staleness="hinge").staleness_weight(5) == pytest.approx(1 / 11)


@pytest.mark.parametrize(
    ("build", "text"),
    [
        (lambda: FedBuff(k=0), "fedbuff.k must be an integer from 1 on, not 0"),
        (lambda: FedBuff(concurrency=-1), "fedbuff.concurrency must be an integer from 1 on, not -1"),
        (lambda: FedBuff(middle_k=True), "fedbuff.middle_k must be an integer from 1 on, not True"),
        (lambda: FedBuff(eta_g=0.0), "fedbuff.eta_g must be above 0, not 0.0"),
        (lambda: FedBuff(a=-1.0), "fedbuff.a must be a number from 0 on, not -1.0"),
        (lambda: FedAsync(alpha=1.5), "fedasync.alpha must be in (0, 1], not 1.5"),
        (lambda: FedAsync(b=-1.0), "fedasync.b must be a number from 0 on, not -1.0"),
        (lambda: FedAsync(rho=-1.0), "fedasync.rho must be a number from 0 on, not -1.0"),
        (
            lambda: FedAsync(staleness="linear"),  # type: ignore[arg-type]
            "fedasync.staleness must be one of constant, polynomial, hinge, not 'linear'",
        ),
    ],
)
def test_a_hyperparameter_that_cannot_be_is_named_with_what_could_be(build: Callable[[], Any], text: str) -> None:
    with pytest.raises(ValueError, match="must be") as caught:
        build()
    assert str(caught.value) == text
