import hashlib
import random

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from roles import seeds


@given(seed=st.integers(0, 2**63), worker=st.text(min_size=1), round=st.integers(0, 10**6))
def test_a_seed_is_the_upper_63_bits_of_a_sha256(seed: int, worker: str, round: int) -> None:
    digest = hashlib.sha256(f"{seed}/{worker}/{round}".encode()).hexdigest()
    assert seeds.derive(seed, worker, round) == int(digest[:16], 16) >> 1


def test_a_derived_seed_stays_the_same_from_version_to_version() -> None:
    assert seeds.derive(0, "model") == 5558024794847056428
    assert seeds.derive(1, "trainer-0", 1) == 2837116356550085577


def test_neighbouring_jobs_workers_and_rounds_get_different_seeds() -> None:
    found = [seeds.derive(seed, f"trainer-{worker}", round) for seed in range(5) for worker in range(20) for round in range(20)]
    assert len(set(found)) == len(found)


def test_all_three_generators_follow_the_seed() -> None:
    def draw(seed: int) -> tuple[float, float, float]:
        seeds.apply(seed)
        return random.random(), float(np.random.rand()), float(torch.rand(()))  # noqa: NPY002

    assert draw(2**63 - 1) == draw(2**63 - 1)
    assert len({*draw(1), *draw(2)}) == 6
