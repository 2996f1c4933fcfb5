"""Noise on sums, adaptive clips and epsilon over rounds, both halves played by hand."""

import math
import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from roles.errors import BadModel
from roles.part import Gathered, Single, Update
from roles.privacy.accountant import Accountant
from roles.privacy.clipped import CLIP, COUNT_NOISE, NOISE, WITHIN
from roles.privacy.clipping import multiplier_of_updates
from roles.privacy.dp import DifferentialPrivacy
from tests.privacy.parts import begun, client_of, finished, flat, gathered, model

MANY = 60_000
"""Numbers in a model, so that deviations can be measured."""


def play(part: DifferentialPrivacy, updates: list[dict[str, Tensor]], round: int = 1) -> tuple[Gathered, Gathered]:
    """The mean before and after the root's part in a round from a model of zeros."""
    zeros = {name: torch.zeros_like(value) for name, value in updates[0].items()}
    told = {name: float(value) for name, value in part.told(round).items()}
    received = model(zeros, clip=told[CLIP], noise=told[NOISE], count_noise=told[COUNT_NOISE]).relabel(round=round)
    done = [finished(client_of(part), received, weights, worker=f"trainer-{i}") for i, weights in enumerate(updates)]
    return gathered(done), part.closed(gathered(done), round)


def zeros_of(clients: int) -> list[dict[str, Tensor]]:
    return [{"w": torch.zeros(MANY)} for _ in range(clients)]


@pytest.mark.parametrize("side", ["server", "client"])
@pytest.mark.parametrize("clients", [1, 9])
def test_the_mean_has_noise_of_z_times_clip_over_m(side: Any, clients: int) -> None:
    part = begun(clients, side=side, clip=3.0, noise_multiplier=0.7, delta=1e-6, reproducible=True)
    _, closed = play(part, zeros_of(clients))
    noise = closed.mean["w"].double().numpy()
    assert noise.std() == pytest.approx(0.7 * 3.0 / clients, rel=0.02)
    assert abs(noise.mean()) < 5 * noise.std() / math.sqrt(MANY)


def test_noise_at_the_server_leaves_updates_alone_and_at_clients_the_mean() -> None:
    before, after = play(begun(3, clip=2.0), [{"w": torch.ones(4) * k} for k in (1.0, 2.0, 3.0)])
    # Norms 2, 4, 6 are clipped to 2: each becomes ones.
    np.testing.assert_allclose(flat(before.mean), np.ones(4), rtol=1e-6)
    assert not np.array_equal(flat(before.mean), flat(after.mean))
    before, after = play(begun(3, clip=2.0, side="client", reproducible=True), [{"w": torch.ones(4)}] * 3)
    np.testing.assert_array_equal(flat(before.mean), flat(after.mean))
    assert not np.allclose(flat(after.mean), np.ones(4))


def test_clients_draw_noise_of_their_own() -> None:
    part = begun(2, side="client", reproducible=True)
    received = model({"w": torch.zeros(50)}, noise=1.0)
    first, second = (finished(client_of(part), received, {"w": torch.zeros(50)}, worker=name).weights["w"] for name in ("a", "b"))
    assert not torch.equal(first, second)
    assert torch.equal(first, finished(client_of(part), received, {"w": torch.zeros(50)}, worker="a").weights["w"])


@pytest.mark.parametrize("side", ["server", "client"])
def test_only_reproducible_noise_repeats(side: Any) -> None:
    def means(reproducible: bool) -> list[Any]:
        parts = (begun(2, side=side, reproducible=reproducible) for _ in range(2))
        return [flat(play(part, zeros_of(2))[1].mean) for part in parts]

    first, second = means(True)
    np.testing.assert_array_equal(first, second)
    first, second = means(False)
    assert not np.array_equal(first, second)


def test_rounds_have_different_noise() -> None:
    part = begun(2, reproducible=True)
    first, second = (flat(play(part, zeros_of(2), round)[1].mean) for round in (1, 2))
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.03


def test_without_noise_there_is_no_epsilon_and_no_need_of_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "dp_accounting", None)
    part = begun(2, noise_multiplier=0.0)
    before, after = play(part, [{"w": torch.ones(4)}] * 2)
    np.testing.assert_array_equal(flat(before.mean), flat(after.mean))
    assert part.metrics() == {"dp_clip": 1.0}


def test_every_round_reports_what_all_rounds_so_far_cost() -> None:
    part = begun(20, noise_multiplier=2.0, clients_per_round=4, sampling="without_replacement", delta=1e-4)
    reference = Accountant("without_replacement", asked=4, population=20)
    for round in range(1, 4):
        play(part, zeros_of(4), round)
        reference.spend(2.0)
        assert part.metrics() == {"dp_clip": 1.0, "dp_epsilon": reference.epsilon(1e-4), "dp_delta": 1e-4}


def test_missing_clients_thin_the_noise_of_clients_and_epsilon_says_so() -> None:
    part = begun(9, side="client", noise_multiplier=2.0, delta=1e-3)
    play(part, zeros_of(4))
    reference = Accountant("none", asked=9, population=9)
    reference.spend(2.0 * math.sqrt(4 / 9))
    assert part.metrics()["dp_epsilon"] == pytest.approx(reference.epsilon(1e-3), rel=1e-12)
    at_server = begun(9, noise_multiplier=2.0, delta=1e-3)
    _, closed = play(at_server, zeros_of(4))
    assert float(closed.mean["w"].std()) == pytest.approx(2.0 / 4, rel=0.03)
    reference = Accountant("none", asked=9, population=9)
    reference.spend(2.0)
    assert at_server.metrics()["dp_epsilon"] == pytest.approx(reference.epsilon(1e-3), rel=1e-12)


def test_old_updates_that_count_less_get_noise_for_the_weight_they_have() -> None:
    part = begun(4, noise_multiplier=1.0, delta=1e-3)
    zeros = Gathered(groups={"weights": {"w": torch.zeros(MANY)}}, sums={WITHIN: 0.0}, weight=2.5, samples=4, count=4)
    assert float(part.closed(zeros, 1).mean["w"].std()) == pytest.approx(1 / 2.5, rel=0.02)


def test_the_clip_finds_the_quantile_of_the_norms() -> None:
    norms = np.linspace(0.1, 4.1, 41)
    for quantile, start in ((0.5, 50.0), (0.5, 0.01), (0.9, 1.0)):
        keys: dict[str, Any] = {"adaptive": True, "quantile": quantile, "noise_multiplier": 0.5, "count_noise": 2.0, "delta": 1e-3}
        part = begun(41, clip=start, reproducible=True, **keys)
        clips = []
        for round in range(1, 121):
            play(part, [{"w": torch.tensor([norm], dtype=torch.float64)} for norm in norms], round)
            clips.append(part.metrics()["dp_clip"])
        assert clips[0] == start
        assert np.mean(clips[-40:]) == pytest.approx(np.quantile(norms, quantile), abs=0.2)


@pytest.mark.parametrize("side", ["server", "client"])
def test_an_adaptive_clip_shares_the_noise_between_updates_and_their_count(side: Any) -> None:
    keys: dict[str, Any] = {"adaptive": True, "noise_multiplier": 1.0, "count_noise": 0.8, "delta": 1e-4}
    part = begun(9, side=side, clip=2.0, reproducible=True, **keys)
    _, closed = play(part, zeros_of(9))
    expected = multiplier_of_updates(1.0, 0.8) * 2.0 / 9
    assert float(closed.mean["w"].std()) == pytest.approx(expected, rel=0.02)
    within = []
    for round in range(2, 202):
        small = [{"w": torch.zeros(2)} for _ in range(9)]
        play(part, small, round)
        within.append(part.metrics()[WITHIN])
    assert np.std(within) == pytest.approx(0.8 / 9, rel=0.2)
    assert np.mean(within) == pytest.approx(1.0, abs=0.03)
    reference = Accountant("none", asked=9, population=9)
    for _ in range(201):
        reference.spend(1.0)
    assert part.metrics()["dp_epsilon"] == pytest.approx(reference.epsilon(1e-4), rel=1e-9)


def test_a_fixed_clip_does_not_tell_who_was_within_it() -> None:
    part = begun(2, noise_multiplier=0.0)
    received = model({"w": torch.zeros(2)})
    for size in (0.1, 10.0):
        assert finished(client_of(part), received, {"w": torch.full((2,), size)}).scalars[WITHIN] == 0.0


def test_a_resumed_root_goes_on_with_clip_and_cost() -> None:
    keys: dict[str, Any] = {"adaptive": True, "count_noise": 3.0, "delta": 1e-3, "reproducible": True}
    whole, first, second = (begun(4, **keys) for _ in range(3))
    for round in (1, 2, 3):
        play(whole, zeros_of(4), round)
    for round in (1, 2):
        play(first, zeros_of(4), round)
    second.load_state_dict(first.state_dict())
    play(second, zeros_of(4), 3)
    assert second.metrics() == whole.metrics()
    assert second.told(4) == whole.told(4)


def test_variances_stay_variances_and_integers_stay_integers() -> None:
    start = {"w": torch.zeros(2), "running_var": torch.ones(5000) * 1e-3, "num_batches_tracked": torch.tensor(4)}
    part = begun(2, start, noise_multiplier=5.0)
    mean = {name: value.clone() for name, value in start.items()}
    closed = part.closed(Gathered(groups={"weights": mean}, sums={WITHIN: 0.0}, weight=2.0, samples=2, count=2), 1)
    assert float(closed.mean["running_var"].min()) == 0.0
    assert float(closed.mean["running_var"].max()) > 1.0
    assert int(closed.mean["num_batches_tracked"]) == 4


def test_epsilon_is_never_worked_out_from_assumptions_that_do_not_hold() -> None:
    part = begun(20, clients_per_round=2, sampling="without_replacement")
    for count in (1, 3):  # who is missing tells of the draw as well
        with pytest.raises(BadModel, match=rf"{count} clients took part in round 1, privacy\.clients_per_round=2"):
            play(part, zeros_of(count))
    heavy = Update(round=1, weights={"w": torch.zeros(2)}, weight=17.0, samples=17, scalars={WITHIN: 0.0})
    with pytest.raises(BadModel, match="1 updates of round 1 count 17"):
        begun(20).closed(gathered([heavy]), 1)
    single = Single(groups={"weights": {"w": torch.zeros(2)}}, weight=1.0, samples=1, scalars={})
    light = replace(heavy, weight=1.0)
    with pytest.raises(BadModel, match="the noise is on the sum"):
        begun(20).closed(replace(gathered([light]), singles=[single]), 1)


@pytest.mark.parametrize(
    ("keys", "text"),
    [
        ({"clip": 0.0}, "clip = 0.0 must be above 0"),
        ({"clip": math.nan}, "clip = nan must be above 0"),
        ({"clip": math.inf}, "noise_multiplier = 1.0 must be 0 where the clip is infinite"),
        ({"noise_multiplier": -1.0}, "noise_multiplier = -1.0"),
        ({"delta": 0.0}, "delta = 0.0"),
        ({"side": "both"}, "side = 'both' must be 'server' or 'client'"),
        ({"quantile": 1.5}, "quantile = 1.5"),
        ({"clip_learning_rate": 0.0}, "clip_learning_rate = 0.0"),
        ({"clients_per_round": 0}, "clients_per_round = 0"),
        ({"sampling": "often"}, "sampling = 'often' must be one of none, without_replacement"),
        ({"sampling": "poisson"}, "sampling = 'poisson' must be one of none, without_replacement"),
        ({"sampling": "without_replacement"}, "clients_per_round = None must be a number with sampling=without_replacement"),
        ({"clip": math.inf, "noise_multiplier": 0.0, "adaptive": True}, "clip = inf must be finite where it adapts"),
    ],
)
def test_keys_that_make_no_sense_are_named(keys: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        DifferentialPrivacy(**keys)


@pytest.mark.parametrize(
    ("keys", "text"),
    [
        ({"clients_per_round": 11}, "clients_per_round = 11 must be at most the 10 clients of the job"),
        ({"delta": 0.1}, "delta = 0.1 must be below 1 / 10"),
        ({"adaptive": True}, "count_noise = 0.5 must be above noise_multiplier / 2 = 0.5"),
    ],
)
def test_keys_that_do_not_fit_the_job_are_named_before_the_first_round(keys: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        begun(10, **keys)
