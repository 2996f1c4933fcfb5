"""A job may take as many rounds as it likes: nothing grows. `make soak` takes 2,000."""

from pathlib import Path

import pytest

from tests.chaos.slopes import MIB, Sample, is_flat, slope, warm
from tests.chaos.soak import WORKERS, Soak, table


def samples(*private: int) -> list[Sample]:
    return [Sample(round=20 * index, private=value, shared=0, descriptors=30) for index, value in enumerate(private)]


def test_a_slope_is_growth_per_round_and_outliers_do_not_move_it() -> None:
    growing = samples(*range(0, 50 * 1000, 1000))
    assert slope(growing, "private") == 50
    growing[10] = samples(*[10**9] * 11)[10]
    assert slope(growing, "private") == 50
    assert slope(growing, "descriptors") == 0
    assert slope(growing[:1], "private") == 0


def test_what_grows_by_megabytes_is_not_flat_and_what_wavers_is() -> None:
    assert is_flat(samples(*(100 * MIB + (index % 3) * 4096 for index in range(100))), "private")
    assert not is_flat(samples(*(100 * MIB + index * 100_000 for index in range(100))), "private")
    assert not is_flat([], "private")


def test_the_first_rounds_do_not_count() -> None:
    assert [each.round for each in warm(samples(*range(9)))] == [40, 60, 80, 100, 120, 140, 160]


@pytest.mark.long
def test_two_hundred_rounds_leave_memory_and_descriptors_flat(tmp_path: Path) -> None:
    soak = Soak(tmp_path, rounds=200)
    assert not soak.problems
    assert len(soak.samples) == WORKERS + 1
    assert min(map(len, soak.samples.values())) >= 50
    assert not soak.growing, "\n".join(table(soak.samples))
