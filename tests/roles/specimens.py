"""Tiny modules and data of the tests of roles."""

from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch import LightningDataModule, LightningModule
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from transports.message import Header

FEATURES, CLASSES = 4, 3


class Classifier(LightningModule):
    """Cross entropy over the classes of `net`, plain or momentum SGD over what can be trained."""

    def __init__(self, net: nn.Module, *, lr: float = 0.1, momentum: float = 0.0) -> None:
        super().__init__()
        self.net = net
        self.lr = lr
        self.momentum = momentum
        self.gamma: float | None = None
        """Decay of the learning rate per epoch; None: no scheduler."""

    def forward(self, inputs: Tensor) -> Tensor:
        dtype = next(self.net.parameters()).dtype
        outputs: Tensor = self.net(inputs.to(dtype))
        return outputs

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        loss = functional.cross_entropy(self(batch[0]).float(), batch[1])
        self.log("train_loss", loss)
        return loss

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        outputs = self(batch[0]).float()
        self.log("loss", functional.cross_entropy(outputs, batch[1]))
        self.log("accuracy", (outputs.argmax(1) == batch[1]).float().mean())

    def configure_optimizers(self) -> Any:
        parameters = [parameter for parameter in self.parameters() if parameter.requires_grad]
        optimizer = torch.optim.SGD(parameters, lr=self.lr, momentum=self.momentum)
        if self.gamma is None:
            return optimizer
        return {"optimizer": optimizer, "lr_scheduler": torch.optim.lr_scheduler.ExponentialLR(optimizer, self.gamma)}


def mlp() -> nn.Sequential:
    return nn.Sequential(nn.Linear(FEATURES, 8), nn.ReLU(), nn.Linear(8, CLASSES))


def classifier(net: Callable[[], nn.Module] = mlp, *, lr: float = 0.1, momentum: float = 0.0) -> Callable[[], Classifier]:
    """A factory of modules around a fresh `net`."""
    return lambda: Classifier(net(), lr=lr, momentum=momentum)


class Points(LightningDataModule):
    """`samples` noisy points of three classes, shuffled anew in each epoch by the global generator; 30 test points."""

    def __init__(self, seed: int, samples: int, *, batch_size: int = 5) -> None:
        super().__init__()
        self.seed, self.samples, self.batch_size = seed, samples, batch_size

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(points(self.seed, self.samples), batch_size=self.batch_size, shuffle=True)

    def test_dataloader(self) -> DataLoader[Any]:
        return DataLoader(points(10_000, 30), batch_size=30)


def points(seed: int, samples: int) -> TensorDataset:
    """Features float32 (samples, 4), labels int64 (samples,); apart from the global generators."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, CLASSES, (samples,), generator=generator)
    noise = torch.randn(samples, FEATURES, generator=generator)
    centres = torch.eye(CLASSES, FEATURES) * 2
    return TensorDataset(centres[labels] + 0.7 * noise, labels)


def header_of(message: Any, **changes: Any) -> Header:
    """The header of a message with some of its fields changed."""
    header = message.header
    values = {name: getattr(header, name) for name in ("kind", "round", "sender", "scalars", "specs", "nbytes")}
    return Header(**{**values, **changes})
