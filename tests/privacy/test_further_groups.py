"""Private SCAFFOLD: control variates are clipped together with the weights, and their sum gets the same noise."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from roles.algorithms.scaffold import CONTROL, Scaffold
from roles.part import Update
from roles.privacy.accountant import Accountant
from roles.privacy.clipped import CLIP, NOISE, WITHIN
from roles.privacy.clipping import multiplier_of_updates
from roles.privacy.dp import DifferentialPrivacy
from roles.settings import Settings
from tests.algorithms import jobs, reference
from tests.algorithms.jobs import DATA, build, plan_of
from tests.privacy.parts import begun, client_of, finished, flat, gathered, model
from tests.roles.federation import Layout, federate, three_tier, two_tier

MANY = 60_000
"""Numbers in a group, so that deviations can be measured."""
LAYOUTS = {"two_tier": two_tier(3), "three_tier": three_tier({"eu": 2, "na": 1})}
State = Mapping[str, Tensor]


def random_state(seed: int, scale: float) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=generator) * scale for name, shape in (("a", (5, 3)), ("b", (7,)), ("c", ()))}


@given(seed=st.integers(0, 2**20), scales=st.tuples(*[st.floats(1e-3, 1e3)] * 2), clip=st.floats(1e-2, 1e2))
@settings(max_examples=60, deadline=None)
def test_an_update_is_clipped_as_one_vector(seed: int, scales: tuple[float, float], clip: float) -> None:
    received, weights, control = random_state(seed, 1.0), random_state(seed + 1, scales[0]), random_state(seed + 2, scales[1])
    client = client_of(begun(4, clip=clip, adaptive=True, noise_multiplier=0.0))
    update = finished(client, model(received, clip=clip), weights, {CONTROL: control})
    difference = flat(weights) - flat(received)
    norm = float(np.linalg.norm(np.concatenate([difference, flat(control)])))
    factor = min(1.0, clip / norm)
    np.testing.assert_allclose(flat(update.weights), flat(received) + difference * factor, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(flat(update.groups[CONTROL]), flat(control) * factor, rtol=1e-6, atol=1e-6 * factor)
    assert update.scalars[WITHIN] == float(norm <= clip)


def test_a_short_update_keeps_every_bit_of_all_groups() -> None:
    received, weights, control = random_state(1, 1.0), random_state(2, 1.0), random_state(3, 1.0)
    for clip in (1e3, math.inf):
        update = finished(
            client_of(begun(4, clip=clip, noise_multiplier=0.0)), model(received, clip=clip), weights, {CONTROL: control}
        )
        assert all(update.groups[CONTROL][name] is value for name, value in control.items())
        assert all(update.weights[name] is value for name, value in weights.items())


def test_the_tensors_of_other_groups_are_never_written_to() -> None:
    received, control = random_state(1, 1.0), random_state(2, 10.0)
    before = flat(control)
    finished(client_of(begun(4)), model(received, noise=0.5), received, {CONTROL: control})
    np.testing.assert_array_equal(flat(control), before)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.complex64])
def test_other_groups_stay_of_their_dtype(dtype: torch.dtype) -> None:
    received, control = {"w": torch.zeros(3)}, {"w": torch.full((3,), 8.0, dtype=dtype)}
    client = client_of(begun(4, noise_multiplier=0.0))
    clipped = finished(client, model(received), received, {CONTROL: control}).groups[CONTROL]["w"]
    torch.testing.assert_close(clipped, torch.full((3,), 3**-0.5, dtype=dtype), rtol=1e-2, atol=0)
    noised = finished(client, model(received, noise=0.25), received, {CONTROL: control}).groups[CONTROL]["w"]
    assert noised.dtype == dtype
    assert not torch.equal(noised, clipped)


@pytest.mark.parametrize("adaptive", [False, True])
@pytest.mark.parametrize("side", ["server", "client"])
def test_the_mean_of_each_group_has_noise_of_z_times_clip_over_m(side: Any, adaptive: bool) -> None:
    clients, z, clip = 9, 0.7, 3.0
    keys: dict[str, Any] = {"adaptive": True, "count_noise": 2.0} if adaptive else {}
    part = begun(clients, side=side, clip=clip, noise_multiplier=z, delta=1e-6, reproducible=True, **keys)
    told = {name: float(value) for name, value in part.told(1).items()}
    zeros = {"w": torch.zeros(MANY)}
    received = model(zeros, clip=told[CLIP], noise=told[NOISE])
    updates = [finished(client_of(part), received, zeros, {CONTROL: zeros}, worker=f"trainer-{i}") for i in range(clients)]
    closed = part.closed(gathered(updates), 1)
    drawn = [closed.groups[group]["w"].double().numpy() for group in ("weights", CONTROL)]
    expected = (multiplier_of_updates(z, 2.0) if adaptive else z) * clip / clients
    for noise in drawn:
        assert noise.std() == pytest.approx(expected, rel=0.02)
        assert abs(noise.mean()) < 5 * noise.std() / math.sqrt(MANY)
    assert abs(np.corrcoef(drawn[0], drawn[1])[0, 1]) < 5 / math.sqrt(MANY), "groups have noise of their own"


def test_one_client_moves_the_sum_of_all_groups_by_the_clip_at_most() -> None:
    clip, received = 0.5, random_state(1, 1.0)
    client = client_of(begun(4, clip=clip, noise_multiplier=0.0))

    def sums(last: Update) -> Any:
        others = [
            finished(client, model(received, clip=clip), random_state(i, 3.0), {CONTROL: random_state(i, 9.0)}) for i in (5, 6)
        ]
        folded = gathered([*others, last])
        return np.concatenate([flat(folded.groups[group]) for group in ("weights", CONTROL)]) * folded.weight

    zeros = {name: torch.zeros_like(value) for name, value in received.items()}
    silent = finished(client, model(received, clip=clip), received, {CONTROL: zeros})
    for scales in ((1.0, 1.0), (100.0, 0.0), (0.0, 100.0)):
        weights = {name: value + random_state(7, scales[0])[name] for name, value in received.items()}
        loud = finished(client, model(received, clip=clip), weights, {CONTROL: random_state(8, scales[1])})
        assert np.linalg.norm(sums(loud) - sums(silent)) == pytest.approx(clip, rel=1e-4)


def private(layout: Layout, folder: Path, **keys: Any) -> dict[str, Any]:
    """What the workers of a private job with SCAFFOLD report; the model is in `folder`."""
    records = federate(layout, jobs.job_of(build(), Scaffold, folder, privacy=lambda: DifferentialPrivacy(delta=1e-3, **keys)))
    assert {name: record.error for name, record in records.items()} == dict.fromkeys(records)
    return dict(records)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("side", ["server", "client"])
def test_without_noise_and_clip_it_is_scaffold_to_the_bit(side: str, layout: str, tmp_path: Path) -> None:
    private(LAYOUTS[layout], tmp_path / "dp", clip=1e6, noise_multiplier=0.0, side=side)
    plain = jobs.train(build(), Scaffold, tmp_path / "plain", layout=LAYOUTS[layout])
    assert all(torch.equal(value, plain[name]) for name, value in jobs.model_in(tmp_path / "dp").items())


def by_hand(clip: float) -> dict[str, Tensor]:
    """The same job as a plain loop in float64: Karimireddy et al. 2020, algorithm 1, with updates (y - x, c_i+ - c_i) clipped;
    c_i moves by what is left of its change."""
    plan = plan_of(build())
    module, x = plan.start()
    c, own = reference.zeros(module), {worker: reference.zeros(module) for worker in DATA}
    for round in range(1, plan.rounds + 1):
        moves: list[tuple[State, State]] = []
        for worker in DATA:
            c_i = own[worker]
            y, rates = reference.train(plan, module, x, worker=worker, round=round, term=lambda name, w: c[name] - c_i[name])  # noqa: B023
            pair = {name: y[name] - x[name] for name in c}, {name: (x[name] - y[name]) / sum(rates) - c[name] for name in c}
            factor = min(1.0, clip / float(np.linalg.norm(np.concatenate([flat(each) for each in pair]))))
            own[worker] = {name: c_i[name] + value * factor for name, value in pair[1].items()}
            moves.append(({name: v * factor for name, v in pair[0].items()}, {name: v * factor for name, v in pair[1].items()}))
        x = {name: x[name] + sum(move[name] for move, _ in moves) / len(DATA) for name in c}
        c = {name: c[name] + sum(change[name] for _, change in moves) / len(DATA) for name in c}
    return x


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_clipped_job_is_a_plain_loop_with_clipped_vectors(layout: str, tmp_path: Path) -> None:
    private(LAYOUTS[layout], tmp_path, clip=0.4, noise_multiplier=0.0)
    found = jobs.model_in(tmp_path)
    for name, value in by_hand(0.4).items():
        torch.testing.assert_close(found[name].double(), value, rtol=0, atol=1e-6)
    assert any(float((found[name] - value).abs().max()) > 1e-3 for name, value in by_hand(1e6).items()), "the clip did nothing"


@pytest.mark.parametrize("side", ["server", "client"])
def test_epsilon_is_that_of_the_one_vector(side: str, tmp_path: Path) -> None:
    records = private(two_tier(3), tmp_path, clip=1.0, noise_multiplier=2.0, side=side)
    reference_accountant = Accountant("none", asked=3, population=3)
    epsilons = records["aggregator-0"].metrics_of("dp_epsilon")
    for round in range(1, Settings(rounds=4).rounds + 1):
        reference_accountant.spend(2.0)
        assert epsilons[round] == pytest.approx(reference_accountant.epsilon(1e-3), rel=1e-9)
    assert all(bool(torch.isfinite(value).all()) for value in jobs.model_in(tmp_path).values())
