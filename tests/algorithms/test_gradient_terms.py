"""Client halves change gradients, and the user's module stays as it is: against modules that have the term in their loss."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Optimizer
from torch.utils.data import DataLoader, TensorDataset
from typing_extensions import override

from roles.algorithms.fedavg import FedAvg
from roles.algorithms.feddyn import FedDyn
from roles.algorithms.fednova import FedNova
from roles.algorithms.fedprox import FedProx
from roles.algorithms.scaffold import Scaffold
from roles.errors import BadModel
from roles.strategy import Strategy
from tests.algorithms.jobs import DATA, SETTINGS, Normed, run, smooth, train, uniform
from tests.roles.oracle import largest_difference, same_bits
from tests.roles.specimens import CLASSES, FEATURES, Classifier, Points

MU = 0.6
OPTIMIZERS: dict[str, Callable[[list[nn.Parameter]], Optimizer]] = {
    "sgd": lambda each: torch.optim.SGD(each, lr=0.1, weight_decay=0.01),
    "momentum": lambda each: torch.optim.SGD(each, lr=0.02, momentum=0.9, nesterov=True),
    "adam": lambda each: torch.optim.Adam(each, lr=0.02, eps=1e-3),
    "adamw": lambda each: torch.optim.AdamW(each, lr=0.02, eps=1e-3),
    "rmsprop": lambda each: torch.optim.RMSprop(each, lr=0.02, eps=1e-2),
}


class Learner(Classifier):
    """With an optimizer of choice; with `mu`, the proximal term stands in its loss."""

    def __init__(self, net: nn.Module, build: Callable[[list[nn.Parameter]], Optimizer], mu: float = 0.0) -> None:
        super().__init__(net)
        self.build, self.mu = build, mu
        self.received: list[Tensor] = []

    def on_train_start(self) -> None:
        self.received = [each.detach().clone() for each in self.parameters()]

    @override
    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = super().training_step(batch, batch_idx)
        if not self.mu:
            return loss
        squares = [(each - old).square().sum() for each, old in zip(self.parameters(), self.received, strict=True)]
        return loss + self.mu / 2 * torch.stack(squares).sum()

    @override
    def configure_optimizers(self) -> Any:
        return self.build([each for each in self.parameters() if each.requires_grad])


def both(folder: Path, module: Callable[[float], Classifier], **more: Any) -> float:
    """How far FedProx over a plain module is from averaging a module that has the term itself."""
    found = train(lambda: module(0.0), lambda: FedProx(mu=MU), folder / "one", **more)
    expected = train(lambda: module(MU), FedAvg, folder / "other", **more)
    apart = largest_difference(found, train(lambda: module(0.0), FedAvg, folder / "none", **more))
    assert apart > 1e-4, "the term makes no difference here"
    return largest_difference(found, expected)


@pytest.mark.parametrize("clip", [None, 0.3], ids=["free", "clipped"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_term_is_exact_whatever_the_optimizer_and_before_clipping(name: str, clip: float | None, tmp_path: Path) -> None:
    options = {} if clip is None else {"gradient_clip_val": clip}
    settings = replace(SETTINGS, rounds=2, epochs=2)

    def module(mu: float) -> Classifier:
        return Learner(smooth(), OPTIMIZERS[name], mu)

    assert both(tmp_path, module, settings=settings, options=lambda: options) < 1e-6


class Tied(nn.Module):
    """One weight under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.encode = nn.Linear(FEATURES, FEATURES, bias=False)
        self.decode = nn.Linear(FEATURES, FEATURES, bias=False)
        self.decode.weight = self.encode.weight
        self.head = nn.Linear(FEATURES, CLASSES)

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.head(self.decode(torch.tanh(self.encode(inputs))))
        return outputs


def test_a_weight_with_two_names_gets_the_term_once(tmp_path: Path) -> None:
    assert both(tmp_path, lambda mu: Learner(Tied(), OPTIMIZERS["sgd"], mu)) < 1e-6


@pytest.mark.parametrize("build", [Scaffold, lambda: Scaffold(option="I"), lambda: FedDyn(alpha=0.1), FedNova])
def test_a_weight_with_two_names_stays_one_weight(build: Callable[[], Strategy], tmp_path: Path) -> None:
    found = train(lambda: Learner(Tied(), OPTIMIZERS["sgd"]), build, tmp_path)
    assert torch.equal(found["net.encode.weight"], found["net.decode.weight"])


class Halves(Classifier):
    """Manual optimization: two halves with an optimizer each, the second of which steps twice as often."""

    def __init__(self, mu: float = 0.0, *, wrapped: bool = True, often: bool = True) -> None:
        super().__init__(smooth())
        self.automatic_optimization = False
        self.mu, self.wrapped, self.often = mu, wrapped, often
        self.received: list[Tensor] = []

    def on_train_start(self) -> None:
        self.received = [each.detach().clone() for each in self.parameters()]

    @override
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        optimizers: Any = self.optimizers(use_pl_optimizer=self.wrapped)
        for index, optimizer in enumerate(optimizers):
            for _ in range(2 if index and self.often else 1):
                self.zero_grad()
                loss = functional.cross_entropy(self(batch[0]), batch[1])
                squares = [(each - old).square().sum() for each, old in zip(self.parameters(), self.received, strict=True)]
                self.manual_backward(loss + self.mu / 2 * torch.stack(squares).sum())
                optimizer.step()

    @override
    def configure_optimizers(self) -> Any:
        assert isinstance(self.net, nn.Sequential)
        return [torch.optim.SGD(self.net[index].parameters(), lr=0.1) for index in (0, 2)]


def test_with_several_optimizers_each_gets_the_term_of_its_own_parameters(tmp_path: Path) -> None:
    assert both(tmp_path, Halves) < 1e-6


def test_scaffold_divides_the_movement_of_each_half_by_its_own_steps(tmp_path: Path) -> None:
    # Nothing corrects a trainer that is alone: its c_i is c.
    data = {"trainer-0": Points(0, 20)}
    found = train(Halves, Scaffold, tmp_path / "one", data=data, states=tmp_path / "states")
    assert largest_difference(found, train(Halves, FedAvg, tmp_path / "other", data=data)) < 1e-6
    stored = torch.load(tmp_path / "states" / "trainer-0" / "round-00004.pt", weights_only=True)["parts"]
    (kept,) = [part["c_i"] for part in stored.values() if part]
    # The mean gradient over a round that stepped the second half twice as often as the first.
    before = train(Halves, FedAvg, tmp_path / "before", data=data, settings=replace(SETTINGS, rounds=3))
    for name, steps in (("net.0.weight", 4), ("net.2.weight", 8)):
        torch.testing.assert_close(kept[name], (before[name] - found[name]) / (0.1 * steps), rtol=0, atol=1e-4)


class Sparse(nn.Module):
    """An embedding with sparse gradients, most of whose rows a batch does not touch."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(9, 4, sparse=True)
        self.head = nn.Linear(4, CLASSES)

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.head(torch.tanh(self.table(inputs.long()).mean(1)))
        return outputs


class Words(Points):
    """Two words of nine for each sample."""

    @override
    def train_dataloader(self) -> DataLoader[Any]:
        generator = torch.Generator().manual_seed(self.seed)
        words = torch.randint(0, 9, (self.samples, 2), generator=generator).float()
        return DataLoader(TensorDataset(words, words.sum(1).long() % CLASSES), batch_size=5, shuffle=True)


@pytest.mark.parametrize("build", [lambda: FedProx(mu=MU), Scaffold, lambda: Scaffold(option="I"), lambda: FedDyn(alpha=0.1)])
def test_sparse_gradients_get_the_term_in_all_rows(build: Callable[[], Strategy], tmp_path: Path) -> None:
    data = {name: Words(each.seed, each.samples) for name, each in DATA.items()}
    found = train(lambda: Classifier(Sparse()), build, tmp_path / "one", data=data)

    def dense() -> Classifier:
        net = Sparse()
        net.table.sparse = False
        return Classifier(net)

    assert largest_difference(found, train(dense, build, tmp_path / "other", data=data)) < 1e-6


class Idle(nn.Module):
    """With a parameter that no batch touches, and one that is frozen."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.idle = smooth(), nn.Linear(2, 2)
        self.frozen = nn.Parameter(torch.ones(3), requires_grad=False)

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.body(inputs)
        return outputs


@pytest.mark.parametrize("build", [lambda: FedProx(mu=MU), Scaffold, lambda: Scaffold(option="I"), FedDyn, FedNova])
def test_what_nobody_trains_stays_as_it_is(build: Callable[[], Strategy], tmp_path: Path) -> None:
    found = train(lambda: Classifier(Idle()), build, tmp_path)
    start = train(lambda: Classifier(Idle()), FedAvg, tmp_path / "start", settings=replace(SETTINGS, rounds=1))
    for name in ("net.idle.weight", "net.idle.bias", "net.frozen"):
        torch.testing.assert_close(found[name], start[name], rtol=0, atol=1e-7)
    assert not torch.equal(found["net.body.0.weight"], start["net.body.0.weight"])


class Dropping(nn.Module):
    """Draws from torch's generator, and has batch statistics."""

    def __init__(self) -> None:
        super().__init__()
        self.normed, self.drop = Normed(), nn.Dropout(0.5)

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.normed(self.drop(inputs))
        return outputs


class OneArgument(Classifier):
    """A training step that does not ask for the number of the batch, and logs."""

    @override
    def training_step(self, batch: Any) -> Any:  # type: ignore[override]
        loss = functional.cross_entropy(self(batch[0]).float(), batch[1])
        self.log_dict({"train_loss": loss})
        return {"loss": loss}


@pytest.mark.parametrize("module", [Classifier, OneArgument])
def test_the_pass_over_the_data_of_option_one_leaves_no_trace_but_its_gradient(
    module: Callable[[nn.Module], Classifier], tmp_path: Path
) -> None:
    settings = uniform(replace(SETTINGS, rounds=1))
    results = []
    for name, build in (("one", lambda: Scaffold(option="I")), ("other", FedAvg)):
        records = run(lambda: module(Dropping()), build, tmp_path / name, settings=settings)
        assert {worker: record.error for worker, record in records.items()} == dict.fromkeys(records)
        losses = [records[worker].metrics_of("train_loss") for worker in DATA]
        results.append((torch.load(tmp_path / name / "last.pt", weights_only=True), losses))
    assert same_bits(results[0][0], results[1][0])
    assert results[0][1] == results[1][1]


def error_of(build: Callable[[], Classifier], strategy: Callable[[], Strategy], folder: Path) -> str:
    # Who fails first ends the job of the others.
    errors = [record.error for record in run(build, strategy, folder).values()]
    return next(str(error) for error in errors if isinstance(error, BadModel))


def test_optimizers_whose_way_is_not_known_are_refused_with_what_helps(tmp_path: Path) -> None:
    def adam() -> Classifier:
        return Learner(smooth(), OPTIMIZERS["adam"])

    text = "SCAFFOLD (option II) divides by how far an optimizer goes, which is known for torch.optim.SGD and not for Adam"
    assert error_of(adam, Scaffold, tmp_path) == f"{text}: use SGD in configure_optimizers, or set algorithm.option=I"
    assert "known for torch.optim.SGD and not for Adam" in error_of(adam, FedNova, tmp_path)
    train(adam, lambda: Scaffold(option="I"), tmp_path)


def test_an_optimizer_that_looks_along_lines_of_the_loss_is_refused(tmp_path: Path) -> None:
    def module() -> Classifier:
        return Learner(smooth(), lambda each: torch.optim.LBFGS(each, line_search_fn="strong_wolfe"))

    assert "which LBFGS compares" in error_of(module, FedProx, tmp_path)


@pytest.mark.parametrize("strategy", [FedProx, Scaffold, FedDyn, FedNova])
def test_optimizers_that_step_unseen_are_an_error_and_not_plain_averaging(strategy: Callable[[], Strategy], tmp_path: Path) -> None:
    text = error_of(lambda: Halves(wrapped=False), strategy, tmp_path)
    assert "saw no step: with manual optimization, step the optimizers that `self.optimizers()` returns" in text


def test_fednova_refuses_halves_that_step_differently_often(tmp_path: Path) -> None:
    assert "the same number of steps" in error_of(Halves, FedNova, tmp_path)
    train(lambda: Halves(often=False), FedNova, tmp_path)


def test_scaffold_with_manual_optimization_has_option_two_only(tmp_path: Path) -> None:
    assert "algorithm.option=II" in error_of(Halves, lambda: Scaffold(option="I"), tmp_path)
