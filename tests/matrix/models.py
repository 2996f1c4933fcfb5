"""A small classifier with everything that is not a parameter: BatchNorm statistics, an integer counter, a frozen layer."""

import torch
from lightning.pytorch import LightningDataModule, LightningModule
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from flame_run.data import ArrayDataModule


class Normed(LightningModule):
    """Digits of 28 x 28 pixels; `classes` logits."""

    steps: Tensor

    def __init__(self, learning_rate: float, classes: int = 10) -> None:
        super().__init__()
        frozen = nn.Linear(32, 32, bias=False)
        frozen.weight.requires_grad_(False)
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(784, 32), nn.BatchNorm1d(32), nn.Tanh(), frozen, nn.Linear(32, classes))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self.learning_rate = learning_rate

    def forward(self, images: Tensor) -> Tensor:
        outputs: Tensor = self.net(images)
        return outputs

    def training_step(self, batch: tuple[Tensor, ...]) -> Tensor:
        self.steps += 1
        images, labels, *_ = batch
        return functional.cross_entropy(self(images), labels)

    def test_step(self, batch: tuple[Tensor, ...]) -> None:
        images, labels, *_ = batch
        outputs = self(images)
        self.log("loss", functional.cross_entropy(outputs, labels))
        self.log("accuracy", (outputs.argmax(1) == labels).float().mean())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD([each for each in self.parameters() if each.requires_grad], lr=self.learning_rate)


class OddOrEven(LightningDataModule):
    """Digits with the class odd or even and, as a third item, whether the digit is below 5."""

    def __init__(self, path: str, batch_size: int) -> None:
        super().__init__()
        self.digits = ArrayDataModule(path, batch_size=batch_size)
        self.batch_size = batch_size

    def setup(self, stage: str | None = None) -> None:
        self.digits.prepare_data()
        self.digits.setup(stage or "fit")

    def train_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        return self._loader(self.digits.train_dataloader(), shuffle=True)

    def test_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        return self._loader(self.digits.test_dataloader(), shuffle=False)

    def _loader(self, loader: DataLoader[tuple[Tensor, Tensor]], *, shuffle: bool) -> DataLoader[tuple[Tensor, ...]]:
        whole = [loader.dataset[index] for index in range(1000)]
        images, labels = torch.stack([image for image, _ in whole]), torch.tensor([int(label) for _, label in whole])
        dataset = TensorDataset(images, labels % 2, (labels < 5).long())
        return DataLoader(dataset, batch_size=self.batch_size, shuffle=shuffle, drop_last=shuffle)
