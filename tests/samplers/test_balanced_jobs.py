"""Whole jobs whose trainers choose among their samples."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from typing_extensions import override

from roles.part import Report
from roles.samplers.balancing import DEADLINE, LOSSES, THRESHOLD
from roles.samplers.fedbalancer import FedBalancer
from roles.samplers.sampler import All, Sampler
from roles.selectors.oort import Oort
from roles.settings import Quorum, Settings
from roles.simulated import Simulated
from roles.trainer import Trainer
from tests.roles import oracle
from tests.roles.fatal import dying
from tests.roles.federation import PATIENCE, Job, Record, federate, two_tier
from tests.roles.specimens import CLASSES, FEATURES, Points, classifier
from transports.message import Scalar

SIZES = (20, 25, 30, 15)
QUORUM = Quorum(join_timeout=PATIENCE, rejoin_timeout=PATIENCE)


class Pressed(FedBalancer):
    """Tells trainers of a deadline that fits nothing, and does not keep it: which samples are taken is for the losses to say."""

    @override
    def told(self, round: int) -> Mapping[str, Scalar]:
        return {THRESHOLD: super().told(round)[THRESHOLD], DEADLINE: 1e-9}

    @override
    def deadline(self, round: int) -> None:
        return None


class Noted(Pressed):
    """Keeps what is reported."""

    def __init__(self, reports: list[Report], thresholds: dict[int, float], **options: Any) -> None:
        super().__init__(**options)
        self.reports, self.thresholds = reports, thresholds

    @override
    def told(self, round: int) -> Mapping[str, Scalar]:
        told = super().told(round)
        self.thresholds[round] = float(told[THRESHOLD])
        return told

    @override
    def heard(self, report: Report) -> None:
        super().heard(report)
        self.reports.append(report)


def noisy() -> nn.Sequential:
    return nn.Sequential(nn.Linear(FEATURES, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Dropout(0.5), nn.Linear(8, CLASSES))


def run(folder: Path, sampler: Callable[[], Sampler], settings: Settings, **more: Any) -> Mapping[str, Record]:
    data = [partial(Points, index, size) for index, size in enumerate(SIZES)]
    restart = more.pop("restart", False)
    factories: dict[str, Any] = {"build_module": classifier(), "build_test_data": lambda: Points(0, 1), **more}
    job = Job(data=data, settings=settings, sampler=sampler, folder=folder / "models", states=folder / "states", **factories)
    records = federate(two_tier(len(SIZES)), job, restart=restart)
    assert {name: record.error for name, record in records.items()} == dict.fromkeys(records)
    return records


def last_model(folder: Path) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = torch.load(folder / "models" / "last.pt", weights_only=True)
    return state


def test_while_there_is_no_threshold_a_job_is_plain_averaging_to_the_bit(tmp_path: Path) -> None:
    settings = Settings(seed=1, rounds=3, epochs=1, quorum=QUORUM)
    run(tmp_path / "plain", All, settings, build_module=classifier(noisy))
    run(tmp_path / "balanced", Pressed, settings, build_module=classifier(noisy))
    assert oracle.same_bits(last_model(tmp_path / "plain"), last_model(tmp_path / "balanced"))


def test_samples_below_the_threshold_are_left_out_and_updates_count_by_the_others(tmp_path: Path) -> None:
    reports: list[Report] = []
    thresholds: dict[int, float] = {}
    settings = Settings(seed=1, rounds=8, evaluate_every=0, quorum=QUORUM, simulated=Simulated())
    records = run(tmp_path, lambda: Noted(reports, thresholds, w=1, lss=0.5), settings)
    samples = records["aggregator-0"].metrics_of("samples")
    for round in range(1, 9):
        own = [report for report in reports if report.round == round]
        assert samples[round] == sum(report.samples for report in own) == sum(float(report.scalars[LOSSES]) for report in own)
        assert thresholds[round] > 0 or samples[round] == sum(SIZES)
    assert min(samples.values()) < sum(SIZES) / 2


def test_a_trainer_that_was_started_anew_knows_its_losses(tmp_path: Path) -> None:
    settings = Settings(seed=4, rounds=6, evaluate_every=0, quorum=QUORUM, simulated=Simulated())
    sampler = lambda: Pressed(w=1, lss=0.5)  # noqa: E731
    run(tmp_path / "calm", sampler, settings)
    code = {"trainer-1": dying(Trainer, "train", call=4)}
    records = run(tmp_path / "deadly", sampler, settings, code_of=code, restart=True)
    assert len(records["trainer-1"].deaths) == 1
    assert oracle.same_bits(last_model(tmp_path / "calm"), last_model(tmp_path / "deadly"))


def test_a_job_that_is_resumed_goes_on_with_threshold_and_ratios(tmp_path: Path) -> None:
    sampler = lambda: Pressed(w=1, lss=0.5)  # noqa: E731
    whole = Settings(seed=4, rounds=6, evaluate_every=0, quorum=QUORUM, simulated=Simulated())
    run(tmp_path / "whole", sampler, whole)
    run(tmp_path / "broken", sampler, replace(whole, rounds=3))
    run(tmp_path / "broken", sampler, whole, resume=True)
    assert oracle.same_bits(last_model(tmp_path / "whole"), last_model(tmp_path / "broken"))


def test_by_the_virtual_clock_a_straggler_is_not_waited_for_once_its_time_is_known(tmp_path: Path) -> None:
    simulated = Simulated(compute=2.0, network=0.5, workers={"trainer-2": 10.0})
    settings = Settings(seed=2, rounds=4, evaluate_every=0, quorum=QUORUM, simulated=simulated)
    records = run(tmp_path, FedBalancer, settings)["aggregator-0"]
    assert records.metrics_of("updates") == {1: 4.0, 2: 3.0, 3: 3.0, 4: 3.0}
    times = records.metrics_of("virtual_seconds")
    assert times[1] == pytest.approx(30.0)
    assert all(times[round] - times[round - 1] == pytest.approx(3.0, abs=1e-3) for round in (2, 3, 4))
    assert records.metrics_of("fedbalancer_deadline")[4] == pytest.approx(3.0, abs=1e-3)


def test_it_goes_together_with_guided_selection(tmp_path: Path) -> None:
    simulated = Simulated(compute=2.0, workers={"trainer-2": 10.0})
    settings = Settings(seed=2, rounds=4, evaluate_every=0, quorum=QUORUM, simulated=simulated)
    records = run(tmp_path, FedBalancer, settings, selector=lambda: Oort(k=2))
    assert records["aggregator-0"].metrics_of("updates") == dict.fromkeys((1, 2, 3, 4), 2.0)


def test_by_the_virtual_clock_a_slow_trainer_comes_in_time_with_fewer_samples(tmp_path: Path) -> None:
    simulated = Simulated(compute=2.0, workers={"trainer-2": 2.5})
    settings = Settings(seed=2, rounds=14, evaluate_every=0, quorum=QUORUM, simulated=simulated)
    runs = [run(tmp_path / name, lambda: FedBalancer(w=2, lss=0.3), settings)["aggregator-0"] for name in ("one", "again")]
    updates, thresholds = runs[0].metrics_of("updates"), runs[0].metrics_of("fedbalancer_threshold")
    assert updates[2] == 3
    with_all = [round for round in range(3, 15) if updates[round] == 4]
    assert with_all
    assert all(thresholds[round - 1] > 0 for round in with_all)
    assert updates == runs[1].metrics_of("updates")
    assert oracle.same_bits(last_model(tmp_path / "one"), last_model(tmp_path / "again"))
