"""FedBalancer at a trainer: which samples it trains on, for how long, and what it reports."""

import io
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer as Lightning
from torch.utils.data import DataLoader, SequentialSampler

from roles import seeds
from roles.errors import BadModel
from roles.fit import QUIET
from roles.losses import sample_losses
from roles.samplers import balancing
from tests.roles.specimens import Points, points
from tests.samplers.fits import BATCH, SAMPLES, Clock, Fits, Watched
from transports.message import Message, Scalar


def losses_of(fits: Fits) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    return sample_losses(fits.module, points(7, SAMPLES).tensors).numpy()


def test_without_threshold_and_deadline_all_samples_are_trained_on() -> None:
    fits = Fits(epochs=2)
    update = fits.round(1)
    assert sorted(fits.trained_on) == sorted([*range(SAMPLES)] * 2)
    assert (update.samples, update.weight, update.effort) == (SAMPLES, SAMPLES, 1.0)


def test_the_order_of_batches_is_that_of_the_untouched_loader() -> None:
    fits, plain = Fits(), Watched(Clock())
    fits.round(1)
    seeds.apply(1)
    Lightning(**QUIET, max_epochs=1).fit(plain, datamodule=Points(7, SAMPLES, batch_size=BATCH))
    assert torch.equal(torch.cat(fits.module.seen), torch.cat(plain.seen))


def test_the_losses_are_remembered_sample_by_sample() -> None:
    fits = Fits()
    fits.round(1)
    assert fits.client.state_dict()["losses"].numpy() == pytest.approx(losses_of(fits), abs=1e-6)


def test_of_a_model_that_learns_each_loss_is_the_one_just_before_its_sample_is_trained_on() -> None:
    fits = Fits(lr=0.5, epochs=2)
    first = Fits(lr=0.5, epochs=2)
    fits.round(1)
    expected = losses_of(first)
    remembered = fits.client.state_dict()["losses"].numpy()
    started_with = fits.trained_on[:BATCH]
    assert remembered[started_with] == pytest.approx(expected[started_with], abs=1e-6)
    rest = fits.trained_on[BATCH:SAMPLES]
    assert (np.abs(remembered[rest] - expected[rest]) > 1e-4).any()


def test_where_time_is_short_only_samples_at_or_above_the_threshold_are_trained_on() -> None:
    fits = Fits()
    fits.round(1)
    threshold = float(np.median(losses_of(fits)))
    update = fits.round(2, threshold=threshold, deadline=0.5)
    expected = np.flatnonzero(losses_of(fits) >= threshold).tolist()
    assert sorted(fits.trained_on) == expected
    assert 0 < len(expected) < SAMPLES
    assert (update.samples, update.weight) == (len(expected), len(expected))
    assert update.effort == pytest.approx(-(-len(expected) // BATCH) / (SAMPLES // BATCH))


@pytest.mark.parametrize(("deadline", "samples"), [(2.1, 5), (4.5, 10), (6.0, 15), (7.9, 15), (8.0, 20), (100.0, 20)])
def test_as_many_samples_are_trained_on_as_fit_the_deadline(deadline: float, samples: int) -> None:
    fits = Fits(epochs=2)  # a batch takes a second
    fits.round(1)
    update = fits.round(2, threshold=1e9, deadline=deadline)
    assert update.samples == samples == len(set(fits.trained_on))


def test_what_is_spent_besides_training_counts_against_the_deadline() -> None:
    fits = Fits()
    fits.round(1)
    fits.client.load_state_dict({**fits.client.state_dict(), "times": [[1.0, 3.0]]})
    assert fits.round(2, threshold=1e9, deadline=6.0).samples == 15


def test_training_ends_after_the_epoch_after_which_the_next_would_miss_the_deadline() -> None:
    fits = Fits(epochs=5)
    update = fits.round(1, deadline=13.0)  # an epoch takes 4 s, and no threshold lets samples go
    assert len(fits.module.seen) == 3 * SAMPLES // BATCH
    assert update.scalars[balancing.EPOCHS_DONE] == 3
    assert update.scalars[balancing.EPOCHS] == 5
    assert update.scalars[balancing.EPOCH_SECONDS] == 4.0
    assert update.effort == pytest.approx(3 / 5)
    assert len(fits.round(2).scalars) == len(update.scalars)
    assert len(fits.module.seen) == 5 * SAMPLES // BATCH


def test_one_epoch_is_trained_whatever_the_deadline() -> None:
    fits = Fits(epochs=3)
    fits.round(1, deadline=1e-3)
    assert len(fits.module.seen) == SAMPLES // BATCH


def test_by_a_virtual_clock_the_choice_is_the_same_on_any_machine() -> None:
    fits = Fits(epochs=2, compute=lambda _: 80.0)  # ten seconds for a batch
    assert fits.round(1, threshold=0.0, deadline=1e9).samples == SAMPLES
    update = fits.round(2, threshold=1e9, deadline=45.0)
    assert update.samples == 10
    assert update.effort == 0.5
    assert update.scalars[balancing.EPOCH_SECONDS] == 20.0


def test_a_client_that_joins_when_there_is_a_threshold_looks_at_all_its_samples_first() -> None:
    fits = Fits()
    threshold = float(np.median(losses_of(fits)))
    torch.manual_seed(5)
    state = torch.get_rng_state()
    scalars: dict[str, Scalar] = {balancing.THRESHOLD: threshold, balancing.DEADLINE: 0.1}
    fits.client.receive(fits.local, Message(kind="model", round=4, scalars=scalars))
    fits.client.loader_data(fits.local, 4)
    assert torch.equal(torch.get_rng_state(), state)
    assert fits.client.state_dict()["losses"].numpy() == pytest.approx(losses_of(fits), abs=1e-6)
    fits.round(4, threshold=threshold, deadline=0.1)
    assert sorted(fits.trained_on) == np.flatnonzero(losses_of(fits) >= threshold).tolist()


def test_what_is_chosen_depends_on_seed_worker_and_round_only() -> None:
    chosen = []
    for rounds in ([1, 2], [1, 3], [1, 2]):
        fits = Fits(p=0.5)
        for number in rounds:
            fits.round(number, threshold=float(np.median(losses_of(fits))) if number > 1 else 0.0, deadline=0.5)
        chosen.append(sorted(fits.trained_on))
    assert chosen[0] == chosen[2] != chosen[1]


def test_the_report_says_how_high_the_losses_are_and_how_long_an_epoch_took() -> None:
    fits = Fits(epochs=2)
    update = fits.round(1)
    losses = losses_of(fits)
    expected = {
        balancing.LOW: losses.min(),
        balancing.HIGH: np.percentile(losses, 80),
        balancing.LOSS_SUM: losses.sum(),
        balancing.LOSSES: SAMPLES,
        balancing.EPOCH_SECONDS: SAMPLES / BATCH,
        balancing.EPOCHS_DONE: 2,
        balancing.EPOCHS: 2,
    }
    assert {name: float(value) for name, value in update.scalars.items()} == pytest.approx(expected, abs=1e-5)
    subset = fits.round(2, threshold=float(np.median(losses)), deadline=0.5).scalars
    assert subset[balancing.LOSS_SUM] == pytest.approx(losses[losses >= np.median(losses)].sum(), abs=1e-5)
    assert subset[balancing.LOW] == pytest.approx(losses.min(), abs=1e-5)


def test_noise_of_the_wanted_size_is_added_to_the_reported_losses() -> None:
    plain, noisy, again = (Fits(noise_factor=factor) for factor in (0.0, 2.0, 2.0))
    names = (balancing.LOW, balancing.HIGH)
    errors = []
    for number in range(1, 31):
        exact, found, same = (fits.round(number).scalars for fits in (plain, noisy, again))
        assert found == same
        errors += [float(found[name]) - float(exact[name]) for name in names]
    assert abs(np.mean(errors)) < 4 * 2.0 / np.sqrt(len(errors))
    assert 1.3 < np.std(errors) < 2.7


def test_samples_that_a_loader_drops_count_as_above_the_threshold() -> None:
    class Dropping(Points):
        def train_dataloader(self) -> DataLoader[Any]:
            return DataLoader(points(self.seed, self.samples), batch_size=8, drop_last=True)

    fits = Fits(data=Dropping(7, SAMPLES))
    fits.round(1)
    assert np.isnan(fits.client.state_dict()["losses"].numpy()).sum() == SAMPLES - 16
    update = fits.round(2, threshold=float(np.quantile(losses_of(fits)[:16], 0.2)), deadline=0.5)
    assert update.samples > 12
    assert all(np.isfinite(float(value)) for value in update.scalars.values())


def test_what_is_remembered_survives_a_restart() -> None:
    first, second = Fits(epochs=2), Fits(epochs=2)
    first.round(1)
    file = io.BytesIO()
    torch.save(first.client.state_dict(), file)
    file.seek(0)
    second.client.load_state_dict(torch.load(file, weights_only=True))
    for number in (2, 3):
        one, other = (fits.round(number, threshold=float(np.median(losses_of(first))), deadline=5.0) for fits in (first, second))
        assert first.trained_on == second.trained_on
        assert one.scalars == other.scalars


def test_a_loader_whose_samples_cannot_be_chosen_is_refused_with_the_reason() -> None:
    class Own(SequentialSampler):
        pass

    class Ordered(Points):
        def train_dataloader(self) -> DataLoader[Any]:
            data = points(self.seed, self.samples)
            return DataLoader(data, sampler=Own(data))

    with pytest.raises(BadModel, match=r"cannot choose samples of train_dataloader.*sampler Own knows the whole dataset"):
        Fits(data=Ordered(7, SAMPLES))
