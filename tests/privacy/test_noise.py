"""Noise: its distribution, and where it comes from."""

import numpy as np
import pytest
import torch

from roles.privacy.noise import Noise, SeededNoise, SystemNoise

COUNT = 200_001
"""Odd, because the system's noise comes in pairs."""


@pytest.mark.parametrize("noise", [SystemNoise(), SeededNoise(3, "test")], ids=["system", "seeded"])
def test_noise_is_standard_normal_and_uncorrelated(noise: Noise) -> None:
    drawn = noise.draw(COUNT).numpy()
    assert drawn.shape == (COUNT,)
    assert drawn.dtype == np.dtype(np.float64)
    # A right generator fails one of these in about 10^9 runs: that of the system cannot be seeded.
    assert abs(drawn.mean()) < 6.5 / np.sqrt(COUNT)
    assert abs(drawn.std() - 1) < 6.5 / np.sqrt(2 * COUNT)
    steps = np.arange(COUNT) / COUNT
    normal = torch.special.ndtr(torch.from_numpy(np.sort(drawn))).numpy()
    # Kolmogorov and Smirnov: beyond x / sqrt(n) with probability 2 exp(-2 x^2).
    assert np.abs(normal - steps).max() < 3.3 / np.sqrt(COUNT)
    for lag in (1, (COUNT + 1) // 2):
        assert abs(np.mean(drawn[lag:] * drawn[:-lag])) < 6.5 / np.sqrt(len(drawn) - lag)


def test_noise_has_the_shape_and_the_deviation_asked_for() -> None:
    drawn = SeededNoise(3, "test").like(torch.zeros(300, 200), 2.5)
    assert drawn.shape == (300, 200)
    assert float(drawn.std()) == pytest.approx(2.5, rel=0.02)
    assert SystemNoise().like(torch.zeros(()), 1.0).shape == ()
    assert SystemNoise().draw(0).shape == (0,)


def test_seeded_noise_repeats_and_differs_by_purpose_and_the_systems_never_repeats() -> None:
    assert torch.equal(SeededNoise(3, "dp", 1).draw(5), SeededNoise(3, "dp", 1).draw(5))
    assert not torch.equal(SeededNoise(3, "dp", 1).draw(5), SeededNoise(3, "dp", 2).draw(5))
    torch.manual_seed(0)
    first = SystemNoise().draw(5)
    torch.manual_seed(0)
    assert not torch.equal(first, SystemNoise().draw(5))


def test_drawing_leaves_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    SeededNoise(3, "test").draw(5)
    SystemNoise().draw(5)
    assert torch.equal(before, torch.get_rng_state())
