"""A model that is nothing but its size."""

import torch
from torch import nn

from flame_run import torchvision_guard

torchvision_guard.install()

from lightning.pytorch import LightningModule  # noqa: E402 - Lightning does not import before the guard

WIDTH = 1024
"""Columns of a full layer, and its rows: 4 MiB."""


class NullModel(LightningModule):
    """Float32 parameters of a given size, made as fast as memory can be written; there is nothing to train.

    They lie in layers of shape (1024, 1024), the rest in one of shape (rows, 1024) and one of shape (values,). All values are
    multiples of 1/1024 in [0, 2): the mean of up to 4,096 equal copies is exact, so null rounds leave the model as it is.
    """

    def __init__(self, megabytes: float) -> None:
        """Make the parameters.

        Args:
            megabytes: Size of all of them together in units of 2**20 bytes, rounded down to whole values; at least one value.

        """
        super().__init__()
        values = max(1, int(megabytes * 2**20) // 4)
        ramp = torch.arange(WIDTH, dtype=torch.float32) / WIDTH
        self.layers = nn.ParameterList()
        while values:
            rows = min(values // WIDTH, WIDTH)
            shape = (rows, WIDTH) if rows else (values,)
            offset = len(self.layers) % WIDTH / WIDTH
            layer = torch.empty(shape).copy_((ramp + offset)[: shape[-1]])
            self.layers.append(nn.Parameter(layer))
            values -= layer.numel()
