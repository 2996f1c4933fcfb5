"""Random rounds for server halves: what ends add to a model, without any training."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st
from numpy.typing import NDArray

from roles.strategy import About, Gathered, State, Strategy

Array = NDArray[np.float64]
Arrays = dict[str, Array]

SHAPES: Mapping[str, tuple[int, ...]] = {"weight": (3, 4), "bias": (3,), "scale": (), "none": (0, 2)}
"""Of the parameters."""
RUNNING, COUNT = "running", "count"
"""A floating-point buffer of two entries, and an integer one."""
POPULATION = 8


@dataclass(frozen=True)
class Sent:
    """One update: how far it is from the model it was made from, its weight, and its buffers."""

    differences: Arrays
    weight: float
    running: Array
    count: int
    further: Mapping[str, Arrays] = field(default_factory=dict)
    """Group -> name -> values."""
    sums: Mapping[str, float] = field(default_factory=dict)
    factor: float = 1.0
    """What it counts for by its age."""


Rounds = list[list[Sent]]


def arrays(generator: np.random.Generator, scale: float = 1.0) -> Arrays:
    """One array for each parameter."""
    return {name: scale * generator.standard_normal(shape) for name, shape in SHAPES.items()}


@st.composite
def random_rounds(draw: st.DrawFn, *, weights: bool = True) -> Rounds:
    """One to four rounds of one to five ends; weights are 1 unless wanted."""
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    scale = draw(st.sampled_from([1e-3, 1.0, 10.0]))
    numbers = st.floats(0.01, 1000) if weights else st.just(1.0)
    return [
        [
            Sent(arrays(generator, scale), draw(numbers), generator.random(2), int(generator.integers(0, 50)))
            for _ in range(draw(st.integers(1, 5)))
        ]
        for _ in range(draw(st.integers(1, 4)))
    ]


def start() -> Arrays:
    """The parameters before the first round."""
    return arrays(np.random.default_rng(1))


def whole(parameters: Arrays, dtype: torch.dtype, running: Array | None = None, count: int = 0) -> dict[str, torch.Tensor]:
    """Parameters and buffers as a state."""
    state = {name: torch.tensor(value).to(dtype) for name, value in parameters.items()}
    running = np.full(2, 0.5) if running is None else running
    return {**state, RUNNING: torch.tensor(running).to(dtype), COUNT: torch.tensor(count)}


def begun(strategy: Strategy, dtype: torch.dtype = torch.float64) -> Strategy:
    """`strategy` at the root of a job of `POPULATION` ends."""
    about = About(start=whole(start(), dtype), parameters=frozenset(SHAPES), population=POPULATION, seed=0)
    strategy.begin(about)
    return strategy


def gathered_of(sent: Sequence[Sent], current: State, *, differences: bool = False) -> Gathered:
    """The fold of a round as an aggregator makes it, in the accumulator's dtypes."""
    factors = [each.weight * each.factor for each in sent]
    total = sum(factors)

    def mean(values: Sequence[Any], like: torch.Tensor) -> torch.Tensor:
        wide = torch.promote_types(like.dtype, torch.float32)
        # What an end sends is in the dtype of the model.
        parts = [torch.as_tensor(value).to(like.dtype).to(wide) * factor for value, factor in zip(values, factors, strict=True)]
        return torch.stack(parts).sum(0) / total

    weights = {}
    for name in SHAPES:
        origin = 0 if differences else current[name].double()
        weights[name] = mean([origin + torch.as_tensor(each.differences[name]) for each in sent], current[name])
    weights[RUNNING] = mean([each.running for each in sent], current[RUNNING])
    weights[COUNT] = torch.tensor(max(each.count for each in sent))
    groups: dict[str, State] = {"weights": weights}
    for group in sent[0].further:
        groups[group] = {name: mean([each.further[group][name] for each in sent], current[name]) for name in SHAPES}
    sums = {name: sum(each.sums[name] for each in sent) for name in sent[0].sums}
    return Gathered(groups=groups, sums=sums, weight=total, samples=len(sent), count=len(sent))


def run(strategy: Strategy, rounds: Rounds, dtype: torch.dtype = torch.float64) -> dict[str, torch.Tensor]:
    """The state after the rounds, from `start()`; `strategy` has begun."""
    current = whole(start(), dtype)
    for number, sent in enumerate(rounds, start=1):
        current = after(strategy, current, sent, number)
    return current


def after(strategy: Strategy, current: Mapping[str, torch.Tensor], sent: list[Sent], number: int) -> dict[str, torch.Tensor]:
    """The state after one more round."""
    before = {name: value.clone() for name, value in current.items()}
    gathered = gathered_of(sent, current, differences=strategy.traits.differences)
    stepped = strategy.step(current, gathered, number)
    assert all(torch.equal(current[name], value) for name, value in before.items()), "the current state is read only"
    assert stepped.keys() == current.keys()
    return {name: stepped[name].to(value.dtype).clone() for name, value in current.items()}


def weighted(values: Sequence[Array], weights: Sequence[float]) -> Array:
    """sum(w_i * x_i) / sum(w_i)."""
    return np.asarray(sum(weight * value for value, weight in zip(values, weights, strict=True)) / sum(weights))


def mean_difference(sent: Sequence[Sent], name: str) -> Array:
    """The weighted mean of the differences of one parameter."""
    return weighted([each.differences[name] for each in sent], [each.weight for each in sent])


def assert_near(found: Mapping[str, torch.Tensor], expected: Arrays, tolerance: float) -> None:
    """Whether all parameters are within `tolerance`, relative to the largest value there is."""
    for name, value in expected.items():
        size = max(1.0, float(np.abs(value).max(initial=0)))
        np.testing.assert_allclose(found[name].double().numpy(), value, rtol=0, atol=tolerance * size, err_msg=name)


def assert_averaged_buffers(found: Mapping[str, torch.Tensor], rounds: Rounds, tolerance: float = 1e-12) -> None:
    """Whether the floating-point buffer is the mean of the last round, and the integer one its maximum."""
    last = rounds[-1]
    expected = weighted([each.running for each in last], [each.weight for each in last])
    np.testing.assert_allclose(found[RUNNING].double().numpy(), expected, rtol=0, atol=tolerance)
    assert int(found[COUNT]) == max(each.count for each in last)


def saved(state: Mapping[str, Any], folder: Any) -> dict[str, Any]:
    """The state as it comes back from a checkpoint."""
    torch.save({"parts": state}, folder / "state.pt")
    content: dict[str, Any] = torch.load(folder / "state.pt", weights_only=True)["parts"]
    return content
