"""The shipped models: their sizes, what they log, and that they learn."""

import math
from pathlib import Path
from typing import Any

import hydra
import pytest
import torch
from omegaconf import DictConfig, OmegaConf
from torch import nn

from flame_run import torchvision_guard
from flame_run.data import ArrayDataModule, locate
from flame_run.models import Classifier, MnistCNN, MnistLargeCNN, MnistMLP

torchvision_guard.install()

from lightning.pytorch import Trainer  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:.*does not have many workers", "ignore:.*LeafSpec.* is deprecated:FutureWarning")

MNIST = locate("builtin://mnist-mini")
CONF = Path(__file__).parents[2] / "conf" / "model"


def trainer(**options: Any) -> Trainer:
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
    return Trainer(accelerator="cpu", **{"max_epochs": 1, **quiet, **options})


def small() -> ArrayDataModule:
    return ArrayDataModule(MNIST, batch_size=20, mean=0.1307)


@pytest.mark.parametrize(("kind", "parameters"), [(MnistCNN, 49_868), (MnistMLP, 199_210), (MnistLargeCNN, 1_663_370)])
def test_a_model_has_the_size_that_its_description_says(kind: Any, parameters: int) -> None:
    model = kind(0.1)
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters
    assert model(torch.zeros(2, 1, 28, 28)).shape == (2, 10)
    assert f"{parameters:,}" in kind.__doc__


@pytest.mark.parametrize("kind", [MnistCNN, MnistMLP, MnistLargeCNN])
def test_the_same_seed_gives_the_same_weights(kind: Any) -> None:
    def weights(seed: int) -> dict[str, torch.Tensor]:
        torch.manual_seed(seed)
        model: Classifier = kind(0.1)
        return model.state_dict()

    first, second, other = weights(1), weights(1), weights(2)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_the_optimizer_takes_its_numbers_from_the_constructor() -> None:
    optimizer = MnistCNN(0.25, momentum=0.5, weight_decay=0.125).configure_optimizers()
    found = {name: optimizer.param_groups[0][name] for name in ("lr", "momentum", "weight_decay")}
    assert found == {"lr": 0.25, "momentum": 0.5, "weight_decay": 0.125}


def test_a_test_logs_loss_and_accuracy_as_means_over_samples() -> None:
    torch.manual_seed(0)
    model, data = MnistCNN(0.05), small()
    data.test_batch_size = 700
    runner = trainer()
    runner.test(model, datamodule=data, verbose=False)
    x, y = data.dataset("test").__getitems__(list(range(2000)))
    with torch.no_grad():
        logits = model(x)
    assert set(runner.callback_metrics) == {"loss", "accuracy"}
    assert math.isclose(runner.callback_metrics["loss"].item(), nn.functional.cross_entropy(logits, y).item(), rel_tol=1e-5)
    assert math.isclose(runner.callback_metrics["accuracy"].item(), (logits.argmax(1) == y).float().mean().item(), rel_tol=1e-5)


def test_training_logs_the_loss_of_the_epoch_and_learns() -> None:
    torch.manual_seed(0)
    model, data = MnistCNN(0.05), small()
    runner = trainer(limit_train_batches=100)
    runner.test(model, datamodule=data, verbose=False)
    before = runner.callback_metrics["accuracy"].item()
    runner.fit(model, datamodule=data)
    assert set(runner.callback_metrics) == {"train_loss"}
    runner.test(model, datamodule=data, verbose=False)
    assert before < 0.3
    assert runner.callback_metrics["accuracy"].item() > 0.7


def test_lightning_trains_as_a_plain_loop_does() -> None:
    data = small()
    torch.manual_seed(0)
    ours, plain = MnistCNN(0.05), MnistCNN(0.05)
    plain.load_state_dict(ours.state_dict())
    torch.manual_seed(1)
    trainer(limit_train_batches=10).fit(ours, datamodule=data)
    torch.manual_seed(1)
    optimizer = torch.optim.SGD(plain.parameters(), 0.05, 0.9)
    for (x, y), _ in zip(data.train_dataloader(), range(10), strict=False):
        optimizer.zero_grad()
        nn.functional.cross_entropy(plain.network(x), y).backward()
        optimizer.step()
    for name, value in ours.state_dict().items():
        assert torch.equal(value, plain.state_dict()[name]), name


@pytest.mark.parametrize("path", sorted(CONF.glob("mnist_*.yaml")), ids=lambda path: path.stem)
def test_a_configuration_makes_its_model_and_data(path: Path) -> None:
    job = {"hyperparameters": {"learningRate": 0.05, "batchSize": 7}}
    text = path.read_text(encoding="utf-8").replace("${worker:dataset.path}", str(MNIST))
    config = OmegaConf.create({"model": OmegaConf.create(text), "job": job})
    assert isinstance(config, DictConfig)
    model = hydra.utils.instantiate(config.model.module)
    data = hydra.utils.instantiate(config.model.data)
    x, y = next(iter(data.train_dataloader()))
    assert model(x).shape == (len(y), 10) == (7, 10)
    assert model.learning_rate == 0.05
    assert config.model.trainer.accelerator == "cpu"
