"""Multilayer perceptrons for MNIST."""

from torch import nn

from flame_run.models.classifier import Classifier


class MnistMLP(Classifier):
    """The "MNIST 2NN" of McMahan et al. (2017): 784-200-200-10 with ReLU, 199,210 parameters.

    Input: float32 of shape (B, 1, 28, 28) or (B, 784); output: logits of shape (B, 10).
    """

    def __init__(self, learning_rate: float, momentum: float = 0.0, weight_decay: float = 0.0) -> None:
        network = nn.Sequential(nn.Flatten(), nn.Linear(784, 200), nn.ReLU(), nn.Linear(200, 200), nn.ReLU(), nn.Linear(200, 10))
        super().__init__(network, learning_rate=learning_rate, momentum=momentum, weight_decay=weight_decay)
