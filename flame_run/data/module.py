"""A data module over arrays in memory."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, RandomSampler, SequentialSampler, default_collate

from flame_run import torchvision_guard
from flame_run.data.arrays import Split, load_arrays

torchvision_guard.install()

from lightning.pytorch import LightningDataModule  # noqa: E402 - Lightning does not import before the guard

_CHANNELS = (1, 3, 4)
_GREY, _COLOUR = 3, 4
"""Dimensions of an array of images without and with a channel."""


class ArrayDataset(Dataset[tuple[Tensor, Tensor]]):
    """Samples and labels in memory, which fetches a whole batch at once.

    `DataLoader` and `Subset` call `__getitems__` where a dataset has it; with `collate` this makes a batch one indexing
    operation instead of one per sample.
    """

    def __init__(self, x: Tensor, targets: Tensor, mean: Tensor, std: Tensor) -> None:
        """Keep the arrays as they are stored: bytes take a quarter of the memory of floats.

        Args:
            x: Samples, (N, ...). When fetched, uint8 becomes float32 in [0, 1], other floats become float32; other integers
                stay (they are token ids).
            targets: Labels, (N, ...).
            mean: Subtracted from float samples; shape () or (C, 1, ...).
            std: Divides float samples after that; shape as `mean`.

        """
        self.x = x
        self.targets = targets
        self.mean = mean
        self.std = std
        self._normalises = bool((mean != 0).any() or (std != 1).any())

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self._prepared(self.x[index]), self.targets[index]

    def __getitems__(self, indices: list[int]) -> tuple[Tensor, Tensor]:
        chosen = torch.tensor(indices)
        return self._prepared(self.x[chosen]), self.targets[chosen]

    def _prepared(self, x: Tensor) -> Tensor:
        if x.dtype == torch.uint8:
            x = x.to(torch.float32).div_(255)
        elif x.is_floating_point():
            x = x.to(torch.float32, copy=True)
        else:
            return x
        return x.sub_(self.mean).div_(self.std) if self._normalises else x


def collate(batch: Any) -> Any:
    """Pass a batch of `ArrayDataset.__getitems__` on, and collate single samples as `DataLoader` would."""
    return batch if isinstance(batch, tuple) else default_collate(batch)


class ArrayDataModule(LightningDataModule):
    """Any data that `load_arrays` reads: images, tables or token ids with labels.

    Training batches are shuffled by PyTorch's own `RandomSampler` from the global generator, so a plain loop with the same
    seed sees the same batches. There is no validation data.

    Batches are `(x, y)`. x is float32 of shape (B, C, H, W) for images (uint8 images are scaled to [0, 1], a missing
    channel dimension is added, a trailing one moved to the front), (B, F) for tables, or integers as stored; y is int64
    class labels or float32 targets of shape (B, ...).
    """

    def __init__(
        self,
        path: str | Path,
        batch_size: int = 32,
        test_batch_size: int = 500,
        data_format: str = "",
        *,
        shuffle: bool = True,
        mean: float | Sequence[float] = 0.0,
        std: float | Sequence[float] = 1.0,
        num_workers: int = 0,
    ) -> None:
        """Remember what to load; nothing is read before `setup` or the first loader.

        Args:
            path: A file or folder that `load_arrays` reads.
            batch_size: Samples in a training batch.
            test_batch_size: Samples in a test batch.
            data_format: Empty: told from the path.
            shuffle: Whether training batches are drawn at random.
            mean: Subtracted from float samples; one number, or one for each channel.
            std: Divides float samples after that; one number, or one for each channel.
            num_workers: Processes that load batches; for data in memory none is fastest.

        """
        super().__init__()
        self.path = Path(path)
        self.batch_size = batch_size
        self.test_batch_size = test_batch_size
        self.data_format = data_format
        self.shuffle = shuffle
        self.mean = mean
        self.std = std
        self.num_workers = num_workers
        self._datasets: dict[Split, ArrayDataset] = {}
        self._loaders: dict[Split, DataLoader[tuple[Tensor, Tensor]]] = {}

    def setup(self, stage: str) -> None:
        """Read the arrays that a stage (`fit`, `validate`, `test` or `predict`) needs.

        Raises:
            DataError: They cannot be read.

        """
        self.dataset("train" if stage == "fit" else "test")

    def train_dataloader(self) -> DataLoader[tuple[Tensor, Tensor]]:
        """Return the batches of the training part."""
        return self._loader("train", self.batch_size, self.shuffle)

    def test_dataloader(self) -> DataLoader[tuple[Tensor, Tensor]]:
        """Return the batches of the test part, in file order."""
        return self._loader("test", self.test_batch_size, shuffle=False)

    def predict_dataloader(self) -> DataLoader[tuple[Tensor, Tensor]]:
        """Return the batches of the test part, in file order."""
        return self.test_dataloader()

    def dataset(self, split: Split) -> ArrayDataset:
        """Return the dataset of a split, read when first asked for.

        Raises:
            DataError: It cannot be read.

        """
        if split not in self._datasets:
            x, y = load_arrays(self.path, split, self.data_format)
            x = _channels_first(x)
            self._datasets[split] = ArrayDataset(x, y, _per_channel(self.mean, x.ndim), _per_channel(self.std, x.ndim))
        return self._datasets[split]

    def _loader(self, split: Split, batch_size: int, shuffle: bool) -> DataLoader[tuple[Tensor, Tensor]]:
        dataset, loader = self.dataset(split), self._loaders.get(split)
        asked = (batch_size, RandomSampler if shuffle else SequentialSampler, self.num_workers)
        if loader is None or loader.dataset is not dataset or _made_with(loader) != asked:
            loader = DataLoader(dataset, batch_size, shuffle=shuffle, num_workers=self.num_workers, collate_fn=collate)
            self._loaders[split] = loader
        return loader


def _made_with(loader: DataLoader[Any]) -> tuple[int | None, type, int]:
    return loader.batch_size, type(loader.sampler), loader.num_workers


def _channels_first(x: Tensor) -> Tensor:
    """Give uint8 images the shape (N, C, H, W); other arrays stay as they are."""
    if x.dtype != torch.uint8:
        return x
    if x.ndim == _GREY:
        return x.unsqueeze(1)
    if x.ndim == _COLOUR and x.shape[-1] in _CHANNELS and x.shape[1] not in _CHANNELS:
        return x.permute(0, 3, 1, 2).contiguous()
    return x


def _per_channel(values: float | Sequence[float], ndim: int) -> Tensor:
    """Shape numbers per channel so that they fit one sample or a batch of dimension `ndim`."""
    numbers = torch.tensor(values, dtype=torch.float32)
    return numbers if numbers.ndim == 0 else numbers.reshape(-1, *[1] * (ndim - 2))
