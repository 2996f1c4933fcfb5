"""Convolutional networks for MNIST."""

from typing import cast

from torch import nn

from flame_run.models.classifier import Classifier


class MnistCNN(Classifier):
    """A small network that trains fast on one CPU thread: 49,868 parameters.

    5x5 convolutions with 16 and 32 filters, each pooled by 2, then 70 hidden units. Weights begin with He's initialization
    (He et al. 2015), which takes large steps from the first batch on better than PyTorch's default.
    Input: float32 of shape (B, 1, 28, 28) in [0, 1]; output: logits of shape (B, 10).
    """

    def __init__(self, learning_rate: float, momentum: float = 0.9, weight_decay: float = 0.0) -> None:
        # Pooling before ReLU gives the same values from a quarter of the work.
        network = nn.Sequential(
            *(nn.Conv2d(1, 16, 5), nn.MaxPool2d(2), nn.ReLU()),
            *(nn.Conv2d(16, 32, 5), nn.MaxPool2d(2), nn.ReLU()),
            *(nn.Flatten(), nn.Linear(512, 70), nn.ReLU(), nn.Linear(70, 10)),
        )
        for layer in network:
            if isinstance(layer, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
                nn.init.zeros_(cast("nn.Parameter", layer.bias))
        super().__init__(network, learning_rate=learning_rate, momentum=momentum, weight_decay=weight_decay)


class MnistLargeCNN(Classifier):
    """The CNN of McMahan et al. (2017): 1,663,370 parameters.

    5x5 convolutions with 32 and 64 filters, same padding, each pooled by 2, then 512 hidden units.
    Input: float32 of shape (B, 1, 28, 28) in [0, 1]; output: logits of shape (B, 10).
    """

    def __init__(self, learning_rate: float, momentum: float = 0.0, weight_decay: float = 0.0) -> None:
        network = nn.Sequential(
            *(nn.Conv2d(1, 32, 5, padding=2), nn.MaxPool2d(2), nn.ReLU()),
            *(nn.Conv2d(32, 64, 5, padding=2), nn.MaxPool2d(2), nn.ReLU()),
            *(nn.Flatten(), nn.Linear(3136, 512), nn.ReLU(), nn.Linear(512, 10)),
        )
        super().__init__(network, learning_rate=learning_rate, momentum=momentum, weight_decay=weight_decay)
