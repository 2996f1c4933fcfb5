"""FedGFT: its bias and the gradient of its penalty against closed forms, by hand."""

from typing import Any, cast

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from roles.algorithms.bias import FAIRNESS, PENALTIES, Bias, Fairness, Penalty, Sensitive, positives, terms
from roles.algorithms.fedgft import SAMPLES, TERMS, FedGFT
from roles.errors import BadModel
from roles.kinds import PHASE, SURVEY
from roles.part import Gathered, Local
from tests.algorithms.fairness import People, Regression, people
from transports.message import Message


def bias_of(fair: Fairness, p: Tensor, y: Tensor, group: Tensor) -> Tensor:
    """F by the definitions of the paper, a differentiable float64 scalar."""
    means = []
    for wanted in (0, 1):
        inside = group == wanted
        if fair == "SP":
            means.append(p[inside].mean())
        elif fair == "EOP":
            means.append(p[inside & (y == 1)].mean())
        else:
            means.append((p * y)[inside].sum() / p[inside].sum())
    return means[0] - means[1]


def whole(fair: Fairness, p: Tensor, y: Tensor, group: Tensor) -> Bias:
    a, b, c, d = (float(value) / len(p) for value in terms(fair, p, y, group == 1))
    return Bias(a=a, b=b, c=c, d=d)


@given(seed=st.integers(0, 2**20), samples=st.integers(20, 60))
@pytest.mark.parametrize("fair", FAIRNESS)
def test_the_bias_is_that_of_the_definition(fair: Fairness, seed: int, samples: int) -> None:
    _, y, group = people(seed, samples).tensors
    y[:2], group[:2] = 1, torch.tensor([0, 1])  # each group has a positive
    p = torch.rand(samples, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    assert whole(fair, p, y, group).value == pytest.approx(float(bias_of(fair, p, y.double(), group)), abs=1e-12)


def answered(client: Any, module: Regression, data: People, received: Message) -> dict[str, float]:
    local = cast("Local", type("Local", (), {"module": module, "data": data, "parameters": dict(module.named_parameters())})())
    client.begin(local)
    client.receive(local, received)
    return dict(client.answer(local, received))


def surveyed(strategy: FedGFT, answers: list[dict[str, float]], round: int = 1) -> None:
    sums = {name: sum(answer[name] for answer in answers) for name in strategy.sums}
    strategy.surveyed(Gathered(groups={}, sums=sums, weight=len(answers), samples=1, count=len(answers)), round)


def penalty_of(fair: Fairness, module: nn.Module, sets: list[People], reg: Penalty, gamma: float | str) -> Tensor:
    """gamma J(F) of the data of all clients, straight from the definition."""
    x, y, group = (torch.cat([each.set.tensors[i] for each in sets]) for i in range(3))
    found = bias_of(fair, positives(module(x)), y.double(), group)
    factor = 2 * abs(found.detach()) if gamma == "auto" else float(gamma)
    return factor * (found**2 / 2 if reg == "l2" else found.abs())


@pytest.mark.parametrize("logits", [1, 2])
@pytest.mark.parametrize("gamma", [0.7, "auto"])
@pytest.mark.parametrize("reg", PENALTIES)
@pytest.mark.parametrize("fair", FAIRNESS)
def test_the_gradients_of_all_clients_add_up_to_that_of_the_global_penalty(
    fair: Fairness, reg: Penalty, gamma: Any, logits: int
) -> None:
    torch.manual_seed(4)
    module = Regression(nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, logits)).double())
    sets = [People(seed, samples, share=share, items=3) for seed, samples, share in ((1, 40, 0.2), (2, 70, 0.7), (3, 30, 0.5))]
    for each in sets:
        each.set.tensors = (each.set.tensors[0].double(), *each.set.tensors[1:])
    expected = torch.autograd.grad(penalty_of(fair, module, sets, reg, gamma), list(module.parameters()))
    strategy = FedGFT(fair=fair, gamma=gamma, reg=reg, sensitive_feature=0)
    survey = Message(kind="weights", round=1, scalars={PHASE: SURVEY})
    clients: list[Any] = [strategy.client() for _ in sets]
    surveyed(strategy, [answered(client, module, each, survey) for client, each in zip(clients, sets, strict=True)])
    total = [np.zeros(tuple(parameter.shape)) for parameter in module.parameters()]
    samples = sum(len(each.set) for each in sets)
    for client, each in zip(clients, sets, strict=True):
        client.receive(None, Message(kind="weights", round=1, scalars=dict(strategy.told(1))))
        # Two batches of unequal size: each counts by its samples, as the mean loss of a batch does.
        for part in (slice(0, 24), slice(24, None)):
            batch = [tensor[part] for tensor in each.set.tensors]
            client._batches = [batch]
            gradients = client._penalty_gradients(module, 1)
            for i, name in enumerate(dict(module.named_parameters())):
                total[i] += gradients[name].numpy() * len(batch[0]) / samples
    for found, value in zip(total, expected, strict=True):
        np.testing.assert_allclose(found, value.numpy(), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("fair", FAIRNESS)
def test_survey_answers_merge_to_the_bias_of_all_data(fair: Fairness) -> None:
    torch.manual_seed(1)
    module, strategy = Regression(), FedGFT(fair=fair, sensitive_item=2)
    sets = [People(seed, samples, items=3) for seed, samples in ((1, 33), (2, 50))]
    survey = Message(kind="weights", round=3, scalars={PHASE: SURVEY})
    answers = [answered(strategy.client(), module, each, survey) for each in sets]
    assert [answer[SAMPLES] for answer in answers] == [33.0, 50.0]
    surveyed(strategy, answers, round=3)
    x, y, group = (torch.cat([each.set.tensors[i] for each in sets]) for i in range(3))
    expected = float(bias_of(fair, positives(module(x).detach()), y.double(), group))
    assert strategy.metrics() == {"bias": pytest.approx(expected, abs=1e-12)}
    assert tuple(strategy.told(3)) == TERMS
    assert strategy.told(4) == {}


def test_a_survey_looks_at_every_sample_in_evaluation_mode_and_leaves_no_trace() -> None:
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 1))
    module, data = Regression(net), People(1, 37)
    module.train()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    survey = Message(kind="weights", round=1, scalars={PHASE: SURVEY})
    client = FedGFT(sensitive_feature=0).client()
    first, second = (answered(client, module, data, survey) for _ in range(2))
    assert first == second
    assert first[SAMPLES] == 37.0
    assert all(part.training for part in module.modules())
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


def test_the_pass_for_the_penalty_changes_neither_buffers_nor_generators() -> None:
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 1))
    module, data = Regression(net), People(1, 37, items=3)
    client: Any = FedGFT(sensitive_item=2).client()
    answered(client, module, data, Message(kind="weights", round=1))
    client.receive(None, Message(kind="weights", round=1, scalars=dict(zip(TERMS, (0.4, 0.5, 0.1, 0.5), strict=True))))
    client._batches = [list(data.set.tensors)]
    module.train()
    buffers, generator = {name: value.clone() for name, value in module.named_buffers()}, torch.get_rng_state()
    gradients = client._penalty_gradients(module, 1)
    assert gradients.keys() == dict(module.named_parameters()).keys()
    assert all(torch.equal(value, buffers[name]) for name, value in module.named_buffers())
    assert torch.equal(generator, torch.get_rng_state())


def test_a_round_without_one_of_the_groups_has_no_penalty_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    strategy, module = FedGFT(sensitive_item=2), Regression()
    survey = Message(kind="weights", round=1)
    surveyed(strategy, [answered(strategy.client(), module, People(1, 20, share=0.0, items=3), survey)])
    assert strategy.told(1) == {}
    assert strategy.metrics() == {}
    assert "round 1 has no sample of one of the groups" in caplog.text


@pytest.mark.parametrize(
    ("keys", "text"),
    [
        ({"fair": "EO"}, "fair = 'EO' must be one of SP, EOP, CAL"),
        ({"reg": "l1"}, "reg = 'l1' must be one of l2, id"),
        ({"gamma": -1.0}, "gamma = -1.0 must be a number from 0, or 'auto'"),
        ({"gamma": "much"}, "gamma = 'much'"),
        ({"sensitive_feature": None}, "one of them must say"),
        ({"sensitive_item": 2}, "one of them must say"),
        ({"sensitive_feature": None, "sensitive_item": 1}, "sensitive_item = 1 must be 2 or more"),
    ],
)
def test_keys_that_make_no_sense_are_named(keys: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        FedGFT(**{"sensitive_feature": 0, **keys})


def test_data_and_models_that_do_not_fit_are_named() -> None:
    x, y, group = people(1, 8).tensors
    with pytest.raises(BadModel, match=r"needs batches \(x, y, ...\) with an item 2, not a list of 2"):
        Sensitive(item=2).of([x, y])
    with pytest.raises(BadModel, match="finds no column 3 in x, float32 of shape"):
        Sensitive(feature=3).of([x, y])
    with pytest.raises(BadModel, match="column 1 of x, the sensitive attribute, must be 0 or 1"):
        Sensitive(feature=1).of([x, y])
    with pytest.raises(BadModel, match="y must be 0 or 1 in each sample"):
        terms("SP", torch.rand(8).double(), y + 1, group == 1)
    with pytest.raises(BadModel, match="needs a binary classifier"):
        positives(torch.zeros(8, 3))
    assert torch.equal(Sensitive(feature=-3).of([x, y]), group == 1)
