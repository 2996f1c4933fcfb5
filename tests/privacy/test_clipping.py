"""Clipping against float64 NumPy."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from roles.errors import BadModel
from roles.part import Update
from roles.privacy.clipped import WITHIN
from roles.privacy.clipping import moved, multiplier_of_updates, next_clip, update_norm
from tests.privacy.parts import begun, client_of, finished, flat, local, model


def random_state(seed: int, scale: float) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=generator) * scale for name, shape in (("a", (5, 3)), ("b", (7,)), ("c", ()))}


@given(seed=st.integers(0, 2**20), scale=st.floats(1e-3, 1e3), clip=st.floats(1e-2, 1e2))
@settings(max_examples=60, deadline=None)
def test_a_clipped_update_is_that_of_numpy(seed: int, scale: float, clip: float) -> None:
    received, weights = random_state(seed, 1.0), random_state(seed + 1, scale)
    update = finished(client_of(begun(4, clip=clip, noise_multiplier=0.0)), model(received, clip=clip), weights)
    difference = flat(weights) - flat(received)
    norm = np.sqrt(np.sum(difference**2))
    expected = flat(received) + difference * min(1.0, clip / norm)
    np.testing.assert_allclose(flat(update.weights), expected, rtol=1e-6, atol=1e-6)
    assert update_norm(update.weights, received) <= clip + 1e-5 * (1 + clip)


def test_a_short_update_keeps_every_bit_and_its_tensors() -> None:
    received, weights = random_state(1, 1.0), random_state(2, 1.0)
    for clip in (1e3, math.inf):
        update = finished(client_of(begun(4, clip=clip, noise_multiplier=0.0)), model(received, clip=clip), weights)
        assert all(update.weights[name] is value for name, value in weights.items())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_tensors_of_module_and_model_are_never_written_to(dtype: torch.dtype) -> None:
    received, weights = ({name: value.to(dtype) for name, value in random_state(seed, 10.0).items()} for seed in (1, 2))
    before = flat(received), flat(weights)
    finished(client_of(begun(4, noise_multiplier=0.0)), model(received, noise=0.5), weights)
    np.testing.assert_array_equal(flat(received), before[0])
    np.testing.assert_array_equal(flat(weights), before[1])


def test_each_update_counts_one_whatever_its_samples() -> None:
    update = finished(client_of(begun(4)), model(random_state(1, 1.0)), random_state(2, 1.0))
    assert (update.weight, update.samples) == (1.0, 17)


def test_floating_buffers_are_clipped_with_the_parameters_and_integers_stay() -> None:
    received = {"w": torch.zeros(2), "running_mean": torch.zeros(2), "num_batches_tracked": torch.tensor(3)}
    weights = {"w": torch.tensor([3.0, 0.0]), "running_mean": torch.tensor([0.0, 4.0]), "num_batches_tracked": torch.tensor(9)}
    update = finished(client_of(begun(4, received, noise_multiplier=0.0)), model(received, noise=0.0), weights)
    torch.testing.assert_close(update.weights["w"], torch.tensor([0.6, 0.0]))
    torch.testing.assert_close(update.weights["running_mean"], torch.tensor([0.0, 0.8]))
    assert update.weights["num_batches_tracked"] is weights["num_batches_tracked"]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.complex64])
def test_other_dtypes_are_clipped_in_float64_and_stay_what_they_are(dtype: torch.dtype) -> None:
    received, weights = {"w": torch.zeros(3, dtype=dtype)}, {"w": torch.full((3,), 8.0, dtype=dtype)}
    update = finished(client_of(begun(4, received, noise_multiplier=0.0)), model(received, noise=0.25), weights)
    assert update.weights["w"].dtype == dtype
    clipped = finished(client_of(begun(4, received, noise_multiplier=0.0)), model(received), weights).weights["w"]
    torch.testing.assert_close(clipped, torch.full((3,), 3**-0.5, dtype=dtype), rtol=1e-2, atol=0)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_not_finite_stays_so_that_the_aggregator_refuses_it(bad: float) -> None:
    weights = {"w": torch.tensor([bad, 1.0])}
    update = finished(client_of(begun(4)), model({"w": torch.zeros(2)}), weights)
    assert not torch.isfinite(update.weights["w"]).all()
    assert update.scalars[WITHIN] == 0.0


def test_what_gets_no_noise_is_refused_where_noise_promises_something() -> None:
    client, received = client_of(begun(4)), model(random_state(1, 1.0))
    for extra in ({"groups": {"control": {"steps": torch.zeros(2, dtype=torch.int64)}}}, {"scalars": {"loss": 0.5}}):
        update = Update(round=1, weights=random_state(2, 1.0), weight=1.0, samples=1, **extra)
        client.receive(local(), received)
        with pytest.raises(BadModel, match=r"hold more than it can protect: \['(control\.steps|loss)'\]"):
            client.finish(local(), update)


def test_what_gets_no_noise_is_let_through_where_nothing_is_promised() -> None:
    client, received = client_of(begun(4, noise_multiplier=0.0)), model(random_state(1, 1.0), clip=0.5)
    steps = torch.tensor([3, 4])
    update = Update(
        round=1, weights=random_state(2, 1.0), groups={"own": {"steps": steps}}, weight=9.0, samples=9, scalars={"loss": 0.5}
    )
    client.receive(local(), received)
    client.finish(local(), update)
    assert update.scalars["loss"] == 0.5
    assert update.groups["own"]["steps"] is steps
    assert update_norm(update.weights, received.groups["weights"]) == pytest.approx(0.5, rel=1e-6)


def test_moving_by_a_step_rounds_once() -> None:
    received = torch.tensor([1.0, 1e8])
    torch.testing.assert_close(moved(received, torch.tensor([2**-30, 1.0], dtype=torch.float64)), received, rtol=0, atol=8)
    assert moved(received, torch.tensor([0.5, 8.0], dtype=torch.float64)).tolist() == [1.5, 100000008.0]


@given(clip=st.floats(1e-3, 1e3), within=st.floats(0, 1), quantile=st.floats(0, 1))
def test_the_next_clip_is_the_geometric_update_of_the_paper(clip: float, within: float, quantile: float) -> None:
    found = next_clip(clip, within=within, quantile=quantile, learning_rate=0.2)
    assert found == pytest.approx(float(clip * np.exp(-0.2 * (within - quantile))), rel=1e-12)


@given(z=st.floats(0.1, 10), ratio=st.floats(1.1, 100))
def test_updates_and_count_together_cost_what_the_noise_multiplier_says(z: float, ratio: float) -> None:
    sigma = z / 2 * ratio
    # Two Gaussian mechanisms compose as 1/z^2; the centred count has the sensitivity 1/2.
    assert multiplier_of_updates(z, sigma) ** -2 + (sigma / 0.5) ** -2 == pytest.approx(z**-2, rel=1e-9)
