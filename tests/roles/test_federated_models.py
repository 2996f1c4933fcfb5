from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from roles.errors import BadModel
from roles.settings import Quorum, Settings, Share
from tests.roles import oracle
from tests.roles.federation import PATIENCE, Job, Layout, Record, federate, three_tier, two_tier
from tests.roles.specimens import CLASSES, FEATURES, Classifier, Points, classifier, mlp

SIZES = (12, 22, 7)
SETTINGS = Settings(seed=4, rounds=2, epochs=1, quorum=Quorum(join_timeout=PATIENCE))
DATA = {f"trainer-{index}": Points(index, size) for index, size in enumerate(SIZES)}
LAYOUTS = (two_tier(3), three_tier({"eu": 2, "na": 1}))

State = dict[str, Tensor]


def job_of(build: Callable[[], Any], folder: Path, settings: Settings = SETTINGS, **more: Any) -> Job:
    data = [lambda own=own: own for own in DATA.values()]
    return Job(build_module=build, data=data, settings=settings, folder=folder, **more)


def run(build: Callable[[], Any], folder: Path, settings: Settings = SETTINGS, *, layout: Layout = LAYOUTS[0], **more: Any) -> Any:
    """The last global state and the records of a federation in which nobody fails."""
    records = federate(layout, job_of(build, folder, settings, **more))
    assert {name: record.error for name, record in records.items()} == dict.fromkeys(records)
    return torch.load(folder / "last.pt", weights_only=True), records


def trainers(records: dict[str, Record]) -> list[Record]:
    return [records[name] for name in DATA]


class Counting(nn.Module):
    """Counts its batches of training in integers of its own."""

    batches: Tensor
    seen: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("batches", torch.zeros(2, dtype=torch.int32))
        self.register_buffer("seen", torch.tensor(False))
        self.body = mlp()

    def forward(self, inputs: Tensor) -> Tensor:
        if self.training:
            self.batches += 1
            self.seen |= True
        outputs: Tensor = self.body(inputs)
        return outputs


def normed() -> nn.Module:
    return nn.Sequential(nn.Linear(FEATURES, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, CLASSES))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_running_statistics_are_averaged_and_batch_counts_take_the_maximum(layout: Layout, tmp_path: Path) -> None:
    found, _ = run(classifier(normed), tmp_path, layout=layout)
    expected = oracle.fedavg(classifier(normed), DATA, seed=4, rounds=2, epochs=1)[-1]
    assert oracle.largest_difference(found, expected) < 1e-6
    # 22 samples in batches of 5 are 5 batches a round: the most that any trainer has seen.
    assert int(found["net.1.num_batches_tracked"]) == 10
    assert found["net.1.num_batches_tracked"].dtype == torch.int64
    assert float((found["net.1.running_mean"]).abs().max()) > 0.01


@pytest.mark.parametrize("layout", LAYOUTS)
def test_integer_and_bool_buffers_take_the_maximum(layout: Layout, tmp_path: Path) -> None:
    found, _ = run(classifier(Counting), tmp_path, layout=layout)
    assert found["net.batches"].tolist() == [10, 10]
    assert found["net.batches"].dtype == torch.int32
    assert bool(found["net.seen"])


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 2**-8), (torch.float16, 2**-11), (torch.float64, 1e-12)])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_weights_of_other_precisions_are_averaged_in_at_least_single(
    dtype: torch.dtype, tolerance: float, layout: Layout, tmp_path: Path
) -> None:
    build = classifier(lambda: mlp().to(dtype))
    found, _ = run(build, tmp_path, replace(SETTINGS, rounds=1), layout=layout)
    expected = oracle.fedavg(build, DATA, seed=4, rounds=1, epochs=1)[-1]
    assert {value.dtype for value in found.values()} == {dtype}
    for name, value in found.items():
        # Both are rounded once from nearly the same mean: at most one unit in the last place apart.
        torch.testing.assert_close(value, expected[name], rtol=2 * tolerance, atol=1e-6)


class TiedNet(nn.Module):
    """An encoder whose weight is used again, transposed, and stands under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.encode = nn.Linear(FEATURES, FEATURES, bias=False)
        self.decode = nn.Linear(FEATURES, FEATURES, bias=False)
        self.decode.weight = self.encode.weight
        self.head = nn.Linear(FEATURES, CLASSES)

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.head(self.decode(functional.relu(self.encode(inputs))))
        return outputs


def test_tied_weights_stay_tied_and_equal_plain_pytorch(tmp_path: Path) -> None:
    modules: list[Classifier] = []

    def build() -> Classifier:
        modules.append(Classifier(TiedNet()))
        return modules[-1]

    found, records = run(build, tmp_path)
    expected = oracle.fedavg(classifier(TiedNet), DATA, seed=4, rounds=2, epochs=1)[-1]
    assert oracle.largest_difference(found, expected) < 1e-6
    assert torch.equal(found["net.encode.weight"], found["net.decode.weight"])
    assert len(modules) == 4
    for module in modules:
        assert isinstance(module.net, TiedNet)
        assert module.net.encode.weight is module.net.decode.weight
    for record in trainers(records):
        assert torch.equal(record.state["net.encode.weight"], record.state["net.decode.weight"])


def half_frozen() -> nn.Module:
    net = mlp()
    net[0].requires_grad_(requires_grad=False)
    return net


@pytest.mark.parametrize("layout", LAYOUTS)
def test_frozen_parameters_travel_down_and_keep_every_bit(layout: Layout, tmp_path: Path) -> None:
    # A base model that only the root knows: trainers get its frozen part with the first round.
    base = Classifier(half_frozen()).state_dict()
    torch.save(base, tmp_path / "base.pt")
    settings_of = {layout.workers[0].role: replace(SETTINGS, base_model=str(tmp_path / "base.pt"))}
    found, records = run(classifier(half_frozen), tmp_path, layout=layout, settings_of=settings_of)
    for state in (found, *(record.state for record in trainers(records))):
        assert all(state[name].numpy().tobytes() == base[name].numpy().tobytes() for name in ("net.0.weight", "net.0.bias"))
    expected = oracle.fedavg(classifier(half_frozen), DATA, seed=4, rounds=2, epochs=1, initial=base)[-1]
    assert oracle.largest_difference(found, expected) < 1e-6
    assert not torch.equal(found["net.2.weight"], base["net.2.weight"])


def test_a_parameter_that_freezes_during_the_job_is_an_error_that_names_it(tmp_path: Path) -> None:
    class Freezing(Classifier):
        def on_train_end(self) -> None:
            self.net.get_parameter("0.bias").requires_grad_(False)

    # Where several trainers have it, those that are not the first may hear of that one's end before they have trained.
    freezing: Callable[[], Any] = lambda: Freezing(mlp())  # noqa: E731
    error = federate(two_tier(3), job_of(classifier(), tmp_path, modules={"trainer-0": freezing}))["trainer-0"].error
    assert isinstance(error, BadModel)
    assert "'net.0.bias'" in str(error)
    assert "job.share.exclude" in str(error)


@pytest.mark.parametrize("share", [Share(include=("net.0.*",)), Share(exclude=("net.2.*",))])
def test_what_is_not_shared_stays_each_workers_own(share: Share, tmp_path: Path) -> None:
    found, records = run(classifier(), tmp_path, replace(SETTINGS, share=share))
    initial = oracle.fedavg(classifier(), {}, seed=4, rounds=0, epochs=0)[0]
    heads = [record.state["net.2.weight"] for record in trainers(records)]
    assert all(not torch.equal(one, other) for one, other in pairwise(heads))
    assert torch.equal(found["net.2.weight"], initial["net.2.weight"])
    assert not torch.equal(found["net.0.weight"], initial["net.0.weight"])


def test_local_parts_go_on_from_round_to_round(tmp_path: Path) -> None:
    settings = replace(SETTINGS, share=Share(include=("net.0.*",)))
    _, records = run(classifier(), tmp_path, settings)
    module = classifier()()
    shared = oracle.fedavg(classifier(), {}, seed=4, rounds=0, epochs=0)[0]
    states = {name: dict(shared) for name in DATA}
    for round in (1, 2):
        for worker, data in DATA.items():
            module.load_state_dict({**states[worker], **{name: shared[name] for name in ("net.0.weight", "net.0.bias")}})
            oracle.train_locally(module, data, seed=4, worker=worker, round=round, epochs=1)
            states[worker] = {name: value.clone() for name, value in module.state_dict().items()}
        shared = oracle.mean(list(states.values()), SIZES)
    for worker in DATA:
        assert oracle.largest_difference(records[worker].state, states[worker]) < 1e-6


def test_a_base_model_is_where_the_job_starts(tmp_path: Path) -> None:
    base = classifier()().state_dict()
    torch.save(base, tmp_path / "base.pt")
    found, _ = run(classifier(), tmp_path, replace(SETTINGS, base_model=str(tmp_path / "base.pt")))
    expected = oracle.fedavg(classifier(), DATA, seed=4, rounds=2, epochs=1, initial=base)[-1]
    assert oracle.largest_difference(found, expected) < 1e-6


def test_a_trainer_with_another_architecture_says_what_does_not_fit(tmp_path: Path) -> None:
    other = classifier(lambda: nn.Sequential(nn.Linear(FEATURES, 9), nn.ReLU(), nn.Linear(9, CLASSES)))
    records = federate(two_tier(3), job_of(classifier(), tmp_path, modules={"trainer-1": other}))
    assert isinstance(records["trainer-1"].error, BadModel)
    assert "'net.0.weight' of shape (8, 4), this worker's module has (9, 4)" in str(records["trainer-1"].error)
    assert "trainer-1" in str(records["aggregator-0"].error)
