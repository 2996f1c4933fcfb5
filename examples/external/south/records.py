"""How the site `south` loads its data. The job neither sees this file nor knows of it."""

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader, TensorDataset


class Records(LightningDataModule):
    """Images and labels of an `.npz` file: x float32 of shape (B, 1, 28, 28) in [0, 1], y int64."""

    def __init__(self, path: str, batch_size: int) -> None:
        super().__init__()
        self.path = path
        self.batch_size = batch_size

    def train_dataloader(self) -> DataLoader[tuple[torch.Tensor, ...]]:
        """Shuffled batches."""
        with np.load(self.path) as file:
            x, y = torch.from_numpy(file["x_train"]), torch.from_numpy(file["y_train"])
        return DataLoader(TensorDataset(x[:, None].float() / 255, y.long()), self.batch_size, shuffle=True)
