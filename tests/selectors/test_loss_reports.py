"""The losses of single samples, and what trainers report of them."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.nn import functional
from typing_extensions import override

from roles import seeds
from roles.errors import BadModel
from roles.losses import reported, sample_losses
from roles.part import Report
from roles.selectors.report import LOSSES, SAMPLES, SQUARES, LossReport
from roles.selectors.selector import Selection, Selector
from roles.settings import Settings
from tests.roles.federation import Job, federate, two_tier
from tests.roles.specimens import CLASSES, FEATURES, Classifier, Points, classifier, points


def noisy() -> nn.Sequential:
    """A network with everything that a careless look would leave a trace in."""
    return nn.Sequential(nn.Linear(FEATURES, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Dropout(0.5), nn.Linear(8, CLASSES))


def a_batch(samples: int = 6) -> tuple[Tensor, Tensor]:
    x, y = points(1, samples).tensors
    return x, y


def test_the_loss_of_a_classifier_is_the_cross_entropy_of_each_sample() -> None:
    module, (x, y) = Classifier(noisy()), a_batch()
    losses = sample_losses(module, [x, y])
    logits = module.eval()(x).detach().double().numpy()
    expected = np.log(np.exp(logits).sum(1)) - logits[np.arange(len(y)), y.numpy()]
    assert losses.dtype == torch.float64
    assert losses.numpy() == pytest.approx(expected, abs=1e-6)


def test_several_labels_of_a_sample_count_as_their_mean() -> None:
    class Tagger(LightningModule):
        def forward(self, x: Tensor) -> Tensor:
            return x

    x, y = torch.randn(2, 3, 5), torch.randint(0, 3, (2, 5))
    expected = [float(functional.cross_entropy(x[index : index + 1], y[index : index + 1])) for index in range(2)]
    assert sample_losses(Tagger(), (x, y)).tolist() == pytest.approx(expected, abs=1e-6)


def test_a_module_can_say_itself_what_the_losses_are() -> None:
    class Regression(LightningModule):
        def sample_losses(self, batch: dict[str, Tensor]) -> Tensor:
            assert not self.training
            return (batch["x"] - batch["y"]).square()

    batch = {"x": torch.tensor([1.0, 2.0]), "y": torch.tensor([1.0, 4.0])}
    assert sample_losses(Regression(), batch).tolist() == [0.0, 4.0]


def test_a_look_at_the_losses_leaves_no_trace() -> None:
    class Stochastic(Classifier):
        def forward(self, inputs: Tensor) -> Tensor:
            return super().forward(inputs + torch.randn_like(inputs))

    net = noisy()
    module = Stochastic(net)
    module.train()
    net[0].eval()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    modes, state = [part.training for part in module.modules()], torch.get_rng_state()
    sample_losses(module, a_batch())
    assert [part.training for part in module.modules()] == modes
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert all(parameter.grad is None for parameter in module.parameters())


class Headless(LightningModule):
    pass


class Flat(LightningModule):
    def forward(self, x: Tensor) -> Tensor:
        return x.sum(1)


class Wrong(LightningModule):
    def sample_losses(self, batch: Any) -> Tensor:
        return torch.tensor(1.0)


@pytest.mark.parametrize(
    ("module", "batch", "message"),
    [
        (Flat(), torch.zeros(2, 3), r"a batch of Flat is not a pair \(x, y\); define `sample_losses"),
        (Flat(), (torch.zeros(2, 3), torch.zeros(2)), "the targets of Flat are no class numbers; define"),
        (Headless(), (torch.zeros(2, 3), torch.zeros(2).long()), r"Headless has no forward\(x\); define"),
        (
            Flat(),
            (torch.zeros(2, 3), torch.zeros(2).long()),
            r"Flat\(x\) gives torch.float32 of shape \(2,\) for targets of shape \(2,\)",
        ),
        (Wrong(), (torch.zeros(2, 3), torch.zeros(2)), r"Wrong.sample_losses must return a float tensor of shape \(B,\)"),
    ],
)
def test_a_module_whose_losses_cannot_be_told_is_told_what_to_define(module: LightningModule, batch: Any, message: str) -> None:
    with pytest.raises(BadModel, match=message):
        sample_losses(module, batch)


@pytest.mark.parametrize("value", [True, "1", float("nan"), float("inf"), -0.5, None])
def test_a_scalar_that_is_no_number_counts_as_not_reported(value: Any) -> None:
    assert reported({} if value is None else {"a": value}, "a") is None
    assert reported({"a": 2}, "a") == 2.0


class Listening(Selector):
    """Takes all, and keeps what is reported."""

    def __init__(self, reports: list[Report], client: type[LossReport] | None = LossReport) -> None:
        self.reports, self._client = reports, client

    @override
    def select(self, round: int, ends: Sequence[str]) -> Selection:
        return Selection(ends=tuple(ends))

    @override
    def heard(self, report: Report) -> None:
        self.reports.append(report)

    @override
    def client(self) -> LossReport | None:
        return None if self._client is None else self._client()


def run(reports: list[Report], client: type[LossReport] | None, epochs: int = 2) -> dict[str, Tensor]:
    """Two trainers with one batch each, two rounds; the model of the first one after its training."""
    data = [partial(Points, index, 6 + index, batch_size=10) for index in range(2)]
    settings = Settings(seed=4, rounds=2, epochs=epochs)
    job = Job(build_module=classifier(noisy), data=data, settings=settings, selector=lambda: Listening(reports, client))
    records = federate(two_tier(2), job)
    assert {name: record.error for name, record in records.items()} == dict.fromkeys(records)
    return records["trainer-0"].state


def test_trainers_report_the_losses_of_the_model_as_it_came() -> None:
    reports: list[Report] = []
    run(reports, LossReport)
    assert [(report.end, report.round) for report in reports] == [(f"trainer-{end}", round) for round in (1, 2) for end in (0, 1)]
    seeds.apply(seeds.derive(4, "model"))
    module = Classifier(noisy())
    for report in reports[:2]:
        index = int(report.end[-1])
        losses = sample_losses(module, points(index, 6 + index).tensors)
        assert report.scalars[SAMPLES] == report.samples == 6 + index
        assert report.scalars[LOSSES] == pytest.approx(float(losses.sum()), rel=1e-6)
        assert report.scalars[SQUARES] == pytest.approx(float(losses.square().sum()), rel=1e-6)
        assert report.seconds > 0


def test_reporting_losses_changes_no_bit_of_the_training() -> None:
    with_reports, without = run([], LossReport), run([], None)
    assert all(torch.equal(with_reports[name], without[name]) for name in without)
