"""FedBalancer at the root: threshold, ratios and deadline from what trainers report."""

import io
import math
from typing import Any

import numpy as np
import pytest
import torch

from roles.part import Report
from roles.samplers import balancing
from roles.samplers.fedbalancer import FedBalancer
from tests.selectors.reports import about, gathered
from transports.message import Scalar

EPOCHS = 4


def report(
    end: int, round: int, *, low: float, high: float, mean: float, epoch: float, around: float, done: int = EPOCHS
) -> Report:
    scalars: dict[str, Scalar] = {
        balancing.LOW: low, balancing.HIGH: high, balancing.LOSS_SUM: mean * 10, balancing.LOSSES: 10,
        balancing.EPOCH_SECONDS: epoch, balancing.EPOCHS_DONE: done, balancing.EPOCHS: EPOCHS,
    }  # fmt: skip
    return Report(end=f"trainer-{end}", round=round, scalars=scalars, samples=10, seconds=around + done * epoch)


def begun(population: int = 3, **options: Any) -> FedBalancer:
    sampler = FedBalancer(**options)
    sampler.begin(about(population=population))
    return sampler


def play(sampler: FedBalancer, round: int, mean: float, *, ends: int = 3, low: float = 0.5) -> dict[str, Scalar]:
    """A round of `ends` trainers, the i-th with epochs of i + 1 s and 0.5 s besides; what was told for it."""
    told = dict(sampler.told(round))
    for end in range(ends):
        sampler.heard(report(end, round, low=low + end, high=mean + end, mean=mean, epoch=1.0 + end, around=0.5))
    sampler.closed(gathered(), round)
    return told


def test_the_first_round_has_no_threshold_and_no_deadline() -> None:
    sampler = begun()
    assert sampler.told(1) == {balancing.THRESHOLD: 0.0}
    assert sampler.deadline(1) is None


def test_there_is_a_deadline_once_more_than_half_of_the_clients_were_heard() -> None:
    sampler = begun(population=6)
    play(sampler, 1, 2.0, ends=3)
    assert sampler.deadline(2) is None
    play(sampler, 2, 2.0, ends=4)
    assert sampler.deadline(3) is not None
    assert sampler.told(3)[balancing.DEADLINE] == sampler.deadline(3)


def oracle_deadline(epoch: list[float], around: list[float], ratio: float) -> float:
    """Algorithm 4 by trying each time in steps of a tenth of a second."""
    best = []
    for epochs in (1, EPOCHS):
        times = np.array(around) + epochs * np.array(epoch)
        steps = np.arange(1, 1000) / 10
        efficiency = [(times <= step + 1e-9).sum() / step for step in steps]
        best.append(float(steps[int(np.argmax(efficiency))]))
    return best[0] + (best[1] - best[0]) * ratio


def test_the_deadline_lies_between_the_peaks_for_one_epoch_and_for_all() -> None:
    sampler = begun(w=1, dss=0.25)
    for round, mean in enumerate((4.0, 2.0, 1.0, 1.5), start=1):
        play(sampler, round, mean)
        ratio = sampler.state_dict()["ratios"][1]
        assert sampler.deadline(round + 1) == pytest.approx(oracle_deadline([1, 2, 3], [0.5] * 3, ratio))
    assert sampler.state_dict()["ratios"] == pytest.approx([0.05, 0.75])


def test_times_of_the_last_five_rounds_count() -> None:
    sampler = begun(population=1)
    for round in range(1, 9):
        sampler.heard(report(0, round, low=0, high=1, mean=1, epoch=float(round), around=0.0))
        sampler.closed(gathered(), round)
    assert sampler.deadline(9) == pytest.approx(EPOCHS * np.mean([4, 5, 6, 7, 8]))


def test_a_client_that_ended_early_is_known_by_the_epochs_it_did() -> None:
    sampler = begun(population=1)
    sampler.heard(report(0, 1, low=0, high=1, mean=1, epoch=2.0, around=0.5, done=1))
    sampler.closed(gathered(), 1)
    assert sampler.deadline(2) == pytest.approx(EPOCHS * 2.0 + 0.5)


def test_thresholds_and_ratios_follow_algorithms_2_and_3() -> None:
    w, lss, means = 2, 0.2, [9.0, 8.0, 4.0, 4.0, 6.0, 9.0, 3.0, 1.0, 1.0, 1.0]
    sampler = begun(w=w, lss=lss, dss=0.0)
    ratio, threshold, benefits, deadline = 0.0, 0.0, [], None
    for round, mean in enumerate(means, start=1):
        assert play(sampler, round, mean)[balancing.THRESHOLD] == pytest.approx(threshold)
        benefits.append(mean / (deadline or 3.0 * EPOCHS + 0.5))
        deadline = sampler.deadline(round + 1)
        if round >= 2 * w and round % w == 0:
            fell = np.mean(benefits[-2 * w : -w]) > np.mean(benefits[-w:])
            ratio = float(np.clip(ratio + (lss if fell else -lss), 0, 1))
        if ratio or threshold:
            lows, highs = [0.5, 1.5, 2.5], [mean, mean + 1, mean + 2]
            threshold = min(lows) + (float(np.mean(highs)) - min(lows)) * ratio
        assert sampler.state_dict()["ratios"][0] == pytest.approx(ratio)
    assert threshold > 0


def test_a_round_that_is_done_again_hears_each_client_once() -> None:
    once, twice = begun(w=1, lss=0.5), begun(w=1, lss=0.5)
    for round, mean in enumerate((4.0, 2.0, 1.0), start=1):
        play(once, round, mean)
        twice.told(round)
        twice.heard(report(0, round, low=-5.0, high=99.0, mean=99.0, epoch=99.0, around=0.0))
        play(twice, round, mean)
    assert once.state_dict() == twice.state_dict()


@pytest.mark.parametrize("name", [balancing.LOW, balancing.HIGH, balancing.LOSS_SUM, balancing.LOSSES, balancing.EPOCH_SECONDS])
@pytest.mark.parametrize("value", [math.nan, math.inf, "much", None])
def test_what_is_no_number_is_left_out(name: str, value: Any) -> None:
    sampler = begun(population=2, w=1, lss=0.5)
    for round in (1, 2, 3):
        good = report(0, round, low=0.5, high=4.0 / round, mean=2.0 / round, epoch=1.0, around=0.5)
        bad = report(1, round, low=0.5, high=4.0 / round, mean=2.0 / round, epoch=1.0, around=0.5)
        sampler.heard(good)
        sampler.heard(Report(end="trainer-1", round=round, scalars={**bad.scalars, name: value}, samples=10, seconds=4.5))
        sampler.closed(gathered(), round)
    assert sampler.metrics()["fedbalancer_ltr"] == 1.0
    assert sampler.metrics()["fedbalancer_threshold"] == pytest.approx(4.0 / 3)
    if name == balancing.EPOCH_SECONDS:
        assert sampler.deadline(4) is None
    else:
        assert sampler.deadline(4) is not None


def test_a_round_without_usable_reports_changes_nothing() -> None:
    sampler = begun(w=1)
    before = sampler.state_dict()
    sampler.heard(Report(end="trainer-0", round=1, scalars={}, samples=3, seconds=1.0))
    sampler.closed(gathered(), 1)
    assert sampler.state_dict() == before


def test_the_state_comes_back_through_a_file() -> None:
    first, second = begun(w=2, lss=0.3), begun(w=2, lss=0.3)
    means = [5.0, 4.0, 3.0, 2.0, 1.5, 1.0, 2.0, 0.5, 0.4]
    for round, mean in enumerate(means[:5], start=1):
        play(first, round, mean)
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    second.load_state_dict(torch.load(file, weights_only=True))
    for round, mean in enumerate(means[5:], start=6):
        assert play(first, round, mean) == play(second, round, mean)
    assert first.metrics() == second.metrics()


@pytest.mark.parametrize(("key", "value"), [("w", 0), ("w", 2.5), ("lss", -0.1), ("dss", 1.5), ("p", 2.0), ("noise_factor", -1.0)])
def test_a_value_out_of_range_is_refused_by_its_name(key: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"^sampler\.{key} must be"):
        FedBalancer(**{key: value})
