"""Pictures of digits as different kinds of clients have them."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from flame_run import torchvision_guard
from flame_run.data.module import ArrayDataModule, ArrayDataset

torchvision_guard.install()

from lightning.pytorch import LightningDataModule  # noqa: E402 - Lightning does not import before the guard

SCALE = 4.0
"""Of the means of rows and columns, most of whose pixels are empty: brings them near the range of the pixels."""


class View(Dataset[dict[str, Tensor]]):
    """What a kind of client has of a picture, and its label.

    Samples are maps: `image`, the picture itself, (1, 28, 28); `table`, how much ink is in each of its columns and rows, (56,);
    `label`, int64.
    """

    def __init__(self, pictures: ArrayDataset, kinds: Sequence[str]) -> None:
        self.pictures, self.kinds = pictures, kinds
        self.targets = pictures.targets

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        picture, label = self.pictures[index]
        sums = torch.cat([picture[0].mean(dim=0), picture[0].mean(dim=1)])
        views = {"image": picture, "table": sums * SCALE}
        return {**{kind: views[kind] for kind in self.kinds}, "label": label}


class ViewDataModule(LightningDataModule):
    """Images of 28 x 28 pixels as clients of these kinds have them; training batches are shuffled."""

    def __init__(self, path: str | Path, kinds: Sequence[str], batch_size: int = 32, test_batch_size: int = 500) -> None:
        """Remember what to load; nothing is read before the first loader.

        Args:
            path: A file or folder that `load_arrays` reads.
            kinds: What is seen of an image, out of `image` and `table`.
            batch_size: Samples in a training batch.
            test_batch_size: Samples in a test batch.

        """
        super().__init__()
        self.pictures = ArrayDataModule(path)
        self.kinds, self.batch_size, self.test_batch_size = kinds, batch_size, test_batch_size

    def train_dataloader(self) -> DataLoader[dict[str, Tensor]]:
        """Return the batches of the training part."""
        return DataLoader(View(self.pictures.dataset("train"), self.kinds), self.batch_size, shuffle=True)

    def test_dataloader(self) -> DataLoader[dict[str, Tensor]]:
        """Return the batches of the test part, in file order."""
        return DataLoader(View(self.pictures.dataset("test"), self.kinds), self.test_batch_size)
